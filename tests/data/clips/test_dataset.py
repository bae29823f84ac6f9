import pickle
import random
from collections import Counter
from copy import deepcopy

import jaxtyping
import numpy as np
import pytest
import torch
from monai.data import decollate_batch, list_data_collate
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose, RandSpatialCropSamplesd
from torch.utils.data import ConcatDataset, DataLoader, Subset

from nstorm.data import (
    HAXBY_DELAY,
    Event,
    check_leakage,
    collate_brain,
    crop_or_pad,
    event_clips,
    haxby_runs,
    split_by_subject,
    strided_clips,
    to_dense,
)
from nstorm.data.clips import dataset, opened_runs
from nstorm.data.clips.dataset import ClipDataset
from nstorm.data.clips.stored_runs import stored_runs
from nstorm.data.preparation.run_all import prepare
from nstorm.data.store.store import Store
from nstorm.data.store.stored_run import StoredRun
from nstorm.data.store.write import write_run
from nstorm.data.study.study import Study
from nstorm.data.transforms.rand_intensity import RandBOLDNoised
from tests.data.clips.stores import AFFINE, NUM_FRAMES, SHAPE, TR, brain, make_store, values_of, write_stored


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "store", {"01": 2, "02": 1, "03": 1}, site="A")


def starts(clips):
    return [item["start_frame"] for item in clips]


def test_a_clip_is_what_the_store_has_and_says_where_it_is_from(store):
    clips = ClipDataset(store, 7, normalize="none")
    for number, (key, record) in enumerate(store.records.items()):
        item = clips[number]
        start, stop = item["frames"]
        mask = brain(number)
        expected = np.zeros((*SHAPE, 7), np.float32)
        expected[mask] = values_of(number, mask)[start:stop].T
        image = item["image"]
        assert isinstance(image, MetaTensor)
        assert image.shape == (1, *SHAPE, 7)
        assert np.array_equal(image[0].numpy(), expected)
        assert np.array_equal(image.affine, AFFINE)
        assert image.meta["tr"] == item["tr"] == TR
        assert image.meta["start_frame"] == item["start_frame"] == start
        assert image.meta["start_time"] == item["start_time"] == start * TR
        assert image.meta["filename_or_obj"].endswith(record.folder)
        assert item["mask"].dtype == torch.bool
        assert np.array_equal(item["mask"][0], mask)
        assert np.array_equal(item["mask"].affine, AFFINE)
        assert item["key"] == key
        assert (item["subject"], item["run"], item["site"]) == (record.labels["subject"], record.labels["run"], "A")


@pytest.mark.parametrize("normalize", ["zscore", "percent", "global", "none"])
def test_normalised_as_the_run_reads_itself(store, normalize):
    item = ClipDataset(store, 6, normalize=normalize)[1]
    expected = store[item["key"]].read(*item["frames"], normalize=normalize)
    assert torch.equal(item["image"].as_tensor(), expected.as_tensor())


def test_every_start_is_equally_likely(store):
    length = NUM_FRAMES - 4
    clips = ClipDataset(store, length, runs=["sub-02_task-rest_run-1"], clips_per_run=1000, output="brain")
    counts = Counter(starts(clips))
    assert sorted(counts) == [0, 1, 2, 3, 4]
    # 200 expected, with a standard deviation of 12.6
    assert max(abs(count - 200) for count in counts.values()) < 50


def test_draws_follow_from_seed_epoch_and_index(store):
    def drawn(seed=0, epoch=0):
        clips = ClipDataset(store, 5, clips_per_run=20, seed=seed, output="brain")
        clips.set_epoch(epoch)
        return starts(clips)

    assert drawn() == drawn()
    assert drawn(epoch=3) == drawn(epoch=3)
    assert len({tuple(drawn(*which)) for which in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]}) == 5
    clips = ClipDataset(store, 5, output="brain")
    assert clips[1, 0]["frames"] == clips[1]["frames"] == clips[-3]["frames"]
    assert len({clips[1, draw]["frames"] for draw in range(20)}) > 5


def test_an_index_beyond_the_end_ends_iteration(store):
    clips = ClipDataset(store, 5)
    assert len(list(clips)) == len(clips) == 4
    with pytest.raises(IndexError):
        clips[4]


def test_strided_clips_are_those_of_strided_clips(store):
    clips = ClipDataset(store, 7, stride=3, normalize="none")
    planned = strided_clips(stored_runs(store), 7, stride=3)
    assert [(item["key"], item["frames"], item["start_time"]) for item in clips] == [
        (item["key"], item["frames"], item["start_time"]) for item in planned
    ]
    by_seconds = ClipDataset(store, seconds=7 * TR + 0.5, stride=3 * TR + 0.5, output="brain")
    assert starts(by_seconds) == starts(clips)


def test_runs_are_chosen_by_key_or_item_and_labels_of_items_win(store):
    [item] = ClipDataset(store, 5, runs="sub-03_task-rest_run-1")
    assert (item["subject"], item["site"]) == ("03", "A")

    items = Study(store.run_items()).where(subject="01")
    clips = ClipDataset(store, 5, runs=[{**run, "site": "B", "age": 30.0} for run in items])
    assert [(item["key"], item["site"], item["age"]) for item in clips] == [
        ("sub-01_task-rest_run-1", "B", 30.0),
        ("sub-01_task-rest_run-2", "B", 30.0),
    ]
    # an item of the file that the run was made from
    [item] = ClipDataset(
        store, 5, runs=[{"image": "/raw/sub-02_bold.nii.gz", "subject": "02", "task": "rest", "run": 1}]
    )
    assert item["key"] == "sub-02_task-rest_run-1"


def test_labels_of_different_runs_get_the_same_keys(tmp_path):
    store = Store(tmp_path / "store", create=True)
    write_stored(store, 0, "01", age=20.5)
    write_stored(store, 1, "02", sex="F")
    store.refresh()
    batch = list_data_collate(list(ClipDataset(store, 5)))
    assert batch["sex"] == ["", "F"]
    assert batch["age"][0] == 20.5
    assert batch["age"][1].isnan()


def test_an_item_that_names_frames_is_that_clip(store):
    runs = [{**store.run_items()[2], "frames": (3, 9), "start_time": 6.0}, {**store.run_items()[0], "frames": (1, 7)}]
    assert [item["frames"] for item in ClipDataset(store, runs=runs)] == [(3, 9), (1, 7)]
    within = ClipDataset(store, 4, runs=runs, clips_per_run=30, output="brain")
    assert set(starts(within)[:30]) == {3, 4, 5}
    assert set(starts(within)[30:]) == {1, 2, 3}
    assert starts(ClipDataset(store, 2, runs=runs, stride=2, output="brain")) == [3, 5, 7, 1, 3, 5]


def test_event_clips_of_a_store_are_those_of_the_files(tmp_path):
    runs = haxby_runs()[:2]
    items = [{"image": str(run.bold), "events": str(run.events)} for run in runs]
    store = prepare(Study(items), tmp_path / "store", progress=False)
    expected = event_clips(items, delay=HAXBY_DELAY)
    planned = event_clips(stored_runs(store), delay=HAXBY_DELAY)
    clips = ClipDataset(store, runs=planned)
    assert len(clips) == len(expected) == 16
    for item, other in zip(clips, expected, strict=True):
        assert item["image"].shape[-1] == 9
        for name in ("frames", "label", "trial_type", "onset", "start_time", "subject", "run"):
            assert item[name] == other[name]
    check_leakage(train=Subset(clips, range(8)), test=Subset(clips, range(8, 16)), unit="run")


def test_events_are_found_where_frames_were_taken_off_the_start(tmp_path):
    store = Store(tmp_path / "store", create=True)
    events = [
        {"onset": 10.0, "duration": 8.0, "trial_type": "face"},
        {"onset": 2.0, "duration": None, "trial_type": "n"},
    ]
    write_stored(store, 0, "01", start_time=4.0, attributes={"events": events})
    store.refresh()
    [clip] = event_clips(stored_runs(store), delay=0.0, ignore=["n"])
    # from 10 to 18 s, of a run that starts at 4 s
    assert clip["frames"] == (3, 7)
    [item] = ClipDataset(store, runs=[clip])
    assert item["start_time"] == 10.0
    given = [{**store.run_items()[0], "events": [Event(6.0, 4.0, "house")]}]
    assert event_clips(stored_runs(store, given), delay=0.0)[0]["frames"] == (1, 3)


def test_clips_that_were_planned_on_other_frames_are_refused(tmp_path):
    store = Store(tmp_path / "store", create=True)
    key = write_stored(store, 0, "01", start_time=4.0)
    store.refresh()
    item = {"image": "/raw/bold.nii", "subject": "01", "task": "rest", "run": "1"}
    with pytest.raises(ValueError, match=rf"frame 3 of {key} is at 10 s .* says at 6 s"):
        ClipDataset(store, runs=[{**item, "frames": (3, 7), "start_time": 6.0}])
    with pytest.raises(ValueError, match=r"\(tr 2 s\), .* says at 4 s \(tr 0\.8 s\)"):
        ClipDataset(store, runs=[{**item, "frames": (0, 7), "start_time": 4.0, "tr": 0.8}])
    with pytest.raises(ValueError, match=rf"frames 28 to 31 of {key} .* has 30"):
        ClipDataset(store, runs=[{**item, "frames": (28, 31)}])


def test_what_makes_no_sense_is_refused_at_once(store, tmp_path):
    for arguments, message in [
        ({}, "no length is given"),
        ({"num_frames": 5, "seconds": 10.0}, "as one of the two"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_frames": 5, "size": 0}, "size is 0, but it has to be one or three numbers"),
        ({"seconds": 1.0}, "holds no whole frame"),
        ({"num_frames": 5, "stride": 0}, "stride is 0 frames"),
        ({"num_frames": 5, "stride": 2.5}, "stride is 2.5 frames"),
        ({"seconds": 10.0, "stride": 1.0}, "stride is 1 s"),
        ({"num_frames": 5, "stride": 5, "clips_per_run": 2}, "clips_per_run is 2 and stride is 5"),
        ({"num_frames": 5, "clips_per_run": 0}, "clips_per_run is 0"),
        ({"num_frames": 31}, r"4 of 4 runs have fewer than the 31 frames .*sub-01_task-rest_run-1: 30, .*>= 31"),
        ({"num_frames": 5, "runs": ["sub-09", "sub-08"]}, r"lacks 2 of the runs \(sub-08, sub-09\)"),
        ({"num_frames": 5, "runs": []}, "at least one"),
    ]:
        with pytest.raises(ValueError, match=message):
            ClipDataset(store, **arguments)
    with pytest.raises(FileNotFoundError, match="is no store"):
        ClipDataset(tmp_path / "nothing", 5)


def test_what_is_no_whole_number_is_refused(store, monkeypatch):
    # as where nobody checks types
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"num_frames is 5.5, but a clip has one or more whole frames"):
        ClipDataset(store, 5.5)
    assert ClipDataset(store, 5.0)[0]["image"].shape[-1] == 5


def test_seconds_ask_for_one_number_of_frames(tmp_path):
    store = Store(tmp_path / "store", create=True)
    for number, tr in enumerate((2.0, 0.8)):
        write_stored(store, number, f"0{number}", tr=tr)
    store.refresh()
    with pytest.raises(ValueError, match=r"10 frames at 0\.8 s, 4 frames at 2 s"):
        ClipDataset(store, seconds=8.0)
    assert {item["image"].shape[-1] for item in ClipDataset(store, 5)} == {5}
    assert len(ClipDataset(store, seconds=8.0, runs=["sub-00_task-rest_run-1"])) == 1


def test_batches_keep_labels_and_meta(store):
    clips = ClipDataset(store, 5, runs=store.run_items()[:2])
    batch = next(iter(DataLoader(clips, batch_size=2, collate_fn=list_data_collate)))
    assert batch["image"].shape == (2, 1, *SHAPE, 5)
    assert torch.equal(batch["image"].meta["tr"], torch.tensor([TR, TR]).double())
    assert batch["image"].meta["start_frame"].tolist() == batch["start_frame"].tolist() == starts(clips)
    assert batch["subject"] == ["01", "01"]
    one, other = decollate_batch(batch)
    assert torch.equal(other["image"], clips[1]["image"])
    assert np.array_equal(one["image"].affine, AFFINE)
    assert (one["key"], int(one["frames"][0])) == (clips[0]["key"], clips[0]["frames"][0])
    plain = next(iter(DataLoader(clips, batch_size=2)))
    assert torch.equal(plain["image"], batch["image"])


def test_leakage_is_seen_through_datasets(store):
    parts = split_by_subject(store.run_items(), {"train": 0.6, "test": 0.4}).apply(store.run_items())
    train, test = (ClipDataset(store, 5, runs=parts[part], clips_per_run=2) for part in ("train", "test"))
    check_leakage(train=DataLoader(train), test=test)
    with pytest.raises(ValueError, match="share 1 subject"):
        check_leakage(train=train, test=ConcatDataset([test, Subset(train, [0])]))


def test_transforms_draw_by_seed_epoch_and_index(store):
    noise = Compose([Compose([RandBOLDNoised("image", std_range=(1.0, 1.0))])])
    clips = ClipDataset(store, 5, transform=noise)
    first = [item["image"] for item in clips]
    again = [clips[index]["image"] for index in (3, 1, 0, 2)]
    for index, image in zip((3, 1, 0, 2), again, strict=True):
        assert torch.equal(image, first[index])
    assert not torch.equal(clips[0, 1]["image"], first[0])
    plain = ClipDataset(store, 5)
    added = [image - plain[index]["image"] for index, image in enumerate(first)]
    assert not torch.equal(added[0], added[1])
    clips.set_epoch(1)
    assert not torch.equal(clips[0]["image"], first[0])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(3),
        lambda: torch.from_numpy(np.random.rand(3)),  # noqa: NPY002
        lambda: torch.tensor([random.random() for _ in range(3)]),
    ],
    ids=["torch", "numpy", "python"],
)
def test_functions_that_draw_from_global_generators_are_seeded_too(store, draw):
    clips = ClipDataset(store, 5, transform=lambda item: draw())
    before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    drawn = [clips[index] for index in range(4)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == str(before[1])  # noqa: NPY002
    assert all(torch.equal(clips[index], drawn[index]) for index in (2, 0, 3, 1))
    assert len({tuple(values.tolist()) for values in drawn}) == 4


def test_transforms_may_give_several_samples(store):
    crops = RandSpatialCropSamplesd("image", (3, 3, 3, 5), num_samples=3, random_size=False)
    loader = DataLoader(ClipDataset(store, 5, transform=crops), batch_size=2, collate_fn=list_data_collate)
    assert next(iter(loader))["image"].shape == (6, 1, 3, 3, 3, 5)


def test_what_is_done_to_an_item_does_not_show_in_the_next(store):
    for output in ("dense", "brain"):
        clips = ClipDataset(store, 5, output=output)
        item = clips[0]
        expected = {name: value.clone() for name, value in item.items() if isinstance(value, torch.Tensor)}
        for name in expected:
            item[name].zero_()
        item["subject"] = "?"
        assert all(torch.equal(clips[0][name], value) for name, value in expected.items())
        assert clips[0]["subject"] == "01"


def test_copies_read_the_same_and_have_epochs_of_their_own(store):
    clips = ClipDataset(store, 5, output="brain")
    first = starts(clips)
    clips.set_epoch(5)
    for copied in (deepcopy(clips), pickle.loads(pickle.dumps(clips))):
        assert starts(copied) == starts(clips) != first
        copied.set_epoch(0)
        assert starts(copied) == first
        assert all(part.is_shared() for part in vars(copied._epoch).values() if isinstance(part, torch.Tensor))
    assert starts(clips) != first


def test_few_runs_stay_open(store, tmp_path):
    many = make_store(tmp_path / "store", {f"{number:02d}": 1 for number in range(12)})
    clips = ClipDataset(many, 5, output="brain")
    for _ in clips:
        pass
    assert clips[3]["subject"] == "03"
    assert len(clips._opened._open) == 8
    assert 3 in clips._opened._open


def test_runs_of_a_large_batch_are_opened_once(tmp_path, monkeypatch):
    many = make_store(tmp_path / "store", {f"{number:02d}": 1 for number in range(12)})
    opened = []
    monkeypatch.setattr(opened_runs, "StoredRun", lambda *run: opened.append(run) or StoredRun(*run))
    for clips in (ClipDataset(many, 5), ClipDataset(many, 5, size=6), ClipDataset(many, 5, output="brain")):
        opened.clear()
        # as in a worker, where dense clips of a batch lie next to each other
        monkeypatch.setattr(dataset, "get_worker_info", lambda: "a worker")
        batch = clips.__getitems__(range(12))
        assert len(opened) == len(batch) == 12


def test_it_says_what_it_holds(store):
    assert repr(ClipDataset(store, 5)) == "ClipDataset of 4 clips of 5 frames from 4 runs of 3 subjects"


@pytest.mark.parametrize("size", [4, (7, 3, 5)])
def test_clips_of_a_size(store, size):
    whole = ClipDataset(store, 6)[1]
    dense = ClipDataset(store, 6, size=size)[1]
    assert torch.equal(dense["image"].as_tensor(), crop_or_pad(whole["image"], size).as_tensor())
    assert torch.equal(dense["mask"].as_tensor(), crop_or_pad(whole["mask"], size).as_tensor())
    assert torch.equal(dense["mask"].affine, crop_or_pad(whole["mask"], size).affine)
    batch = collate_brain([ClipDataset(store, 6, size=size, output="brain")[index] for index in (1, 2)])
    made = to_dense(batch["image"], batch["places"], dense["image"].shape[1:4])
    assert torch.equal(made[0], dense["image"].as_tensor())


def test_runs_on_several_grids_are_warned_of(tmp_path):
    store = Store(tmp_path / "store", create=True)
    for number, depth in enumerate((3, 4), 1):
        mask = np.ones((2, 2, depth), bool)
        values = np.random.default_rng(0).normal(size=(30, mask.sum())).astype(np.float32)
        write_run(store.place, f"sub-{number}", values, mask, affine=np.eye(4), tr=2.0, labels={"subject": str(number)})
    store.refresh()
    with pytest.warns(UserWarning, match="2 x 2 x 4 of sub-2"):
        ClipDataset(store, 5)
    clips = ClipDataset(store, 5, size=4)
    assert next(iter(DataLoader(clips, batch_size=2)))["image"].shape == (2, 1, 4, 4, 4, 5)
    ClipDataset(store, 5, output="brain")
