import nibabel
import numpy as np
import pytest
import torch
from monai.data import (
    CacheDataset,
    DataLoader,
    Dataset,
    PersistentDataset,
    ThreadDataLoader,
    decollate_batch,
    list_data_collate,
)
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose

from nstorm.data import haxby_runs, load_bold
from nstorm.data.clips.cut import random_clips, strided_clips
from nstorm.data.clips.items import run_item
from nstorm.data.files.reader import BOLDFile
from nstorm.data.time.scrub import scrub
from nstorm.data.transforms import TimeToLastd
from nstorm.data.transforms.io import LoadBOLDd

NUM_FRAMES, TR = 10, 2.0


def make_run(num_frames=NUM_FRAMES, tr=TR, **meta):
    affine = torch.diag(torch.tensor([-3.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    time = torch.arange(num_frames, dtype=torch.float32)[:, None, None, None]
    return MetaTensor(time + torch.zeros(2, 3, 4), affine=affine, meta={"tr": tr, **meta})


@pytest.fixture
def file(tmp_path):
    def write(name="sub-01_task-rest_bold.nii", num_frames=NUM_FRAMES, tr=TR):
        image = nibabel.Nifti1Image(
            np.arange(num_frames, dtype=np.float32) + np.zeros((2, 3, 4, 1), np.float32), np.eye(4)
        )
        image.header.set_xyzt_units("mm", "sec")
        image.header["pixdim"][4] = tr
        image.to_filename(tmp_path / name)
        return tmp_path / name

    return write


def frames(item):
    return item["image"][0, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("num_frames", "stride", "starts"),
    [
        (5, None, [0, 5]),
        (4, None, [0, 4]),
        (10, None, [0]),
        (4, 3, [0, 3, 6]),
        (4, 2, [0, 2, 4, 6]),
        (2, 5, [0, 5]),
    ],
)
def test_clips_of_a_file_and_of_its_run_in_memory_are_the_same(file, num_frames, stride, starts):
    path = file()
    lazy = strided_clips(path, num_frames, stride=stride)
    views = strided_clips(load_bold(path), num_frames, stride=stride)
    assert [item["frames"] for item in lazy] == [(start, start + num_frames) for start in starts]
    read = Compose([LoadBOLDd("image"), TimeToLastd("image")])
    for start, item, view in zip(starts, lazy, views, strict=True):
        assert {key: item[key] for key in item if key != "image"} == {key: view[key] for key in view if key != "image"}
        assert (item["start_frame"], item["start_time"], item["tr"]) == (start, start * TR, TR)
        assert (item["subject"], item["session"], item["task"], item["run"]) == ("01", "", "rest", "")
        clip = read(item)["image"]
        assert frames(view) == list(range(start, start + num_frames))
        assert torch.equal(clip.as_tensor(), view["image"].as_tensor())
        for key in ("tr", "start_frame", "start_time", "filename_or_obj"):
            assert clip.meta[key] == view["image"].meta[key]
        assert torch.equal(clip.affine, view["image"].affine)


def test_planning_reads_headers_alone(file, monkeypatch):
    monkeypatch.setattr(BOLDFile, "read", None)
    assert len(strided_clips(file(), 5)) == 2


def test_seconds_give_runs_of_other_repetition_times_clips_that_last_equally_long(file):
    slow, fast = file("sub-1_bold.nii", 20, 2.0), file("sub-2_bold.nii", 40, 0.8)
    clips = strided_clips([slow, fast], seconds=16.0)
    assert [clip["frames"] for clip in clips] == [(0, 8), (8, 16), (0, 20), (20, 40)]
    # 17.4 s hold 8 frames of 2 s and 21 of 0.8 s; 5 s reach over 2 and 6 of them
    clips = strided_clips([slow, fast], seconds=17.4, stride=5.0)
    assert [clip["frames"][0] for clip in clips] == [0, 2, 4, 6, 8, 10, 12, 0, 6, 12, 18]
    assert {clip["frames"][1] - clip["frames"][0] for clip in clips} == {8, 21}


def test_seconds_that_are_frames_but_for_rounding():
    assert [clip["frames"] for clip in strided_clips(make_run(tr=0.1 + 0.2), seconds=0.9)] == [(0, 3), (3, 6), (6, 9)]


@pytest.mark.parametrize("layout", ["time first", "time last"])
def test_view_of_a_run_in_memory(layout):
    run = make_run()
    given = run if layout == "time first" else run.movedim(0, -1)[None]
    item = strided_clips(given, 3)[1]
    image = item["image"]
    assert image.shape == (1, 2, 3, 4, 3)
    assert frames(item) == [3, 4, 5]
    assert image.untyped_storage().data_ptr() == run.untyped_storage().data_ptr()
    assert torch.equal(image.affine, run.affine)
    image.meta["tr"] = 99.0
    image.affine[0, 0] = 99.0
    assert run.meta["tr"] == TR
    assert run.affine[0, 0] == -3
    assert not {"start_frame", "start_time"} & run.meta.keys()


def test_part_of_a_recording_knows_where_it_starts():
    clip = strided_clips(make_run(start_frame=30, start_time=60.0), 4)[1]
    assert (clip["frames"], clip["start_frame"], clip["start_time"]) == ((34, 38), 34, 68.0)
    assert (clip["image"].meta["start_frame"], clip["image"].meta["start_time"]) == (34, 68.0)
    assert strided_clips(make_run(start_frame=30), 4)[0]["start_time"] == 60.0


def test_run_that_was_resampled_in_time_has_no_frames_of_its_file():
    clip = strided_clips(make_run(start_time=3.0), 4)[1]
    assert clip["start_time"] == clip["image"].meta["start_time"] == 11.0
    assert not {"frames", "start_frame"} & (clip.keys() | clip["image"].meta.keys())


def test_labels_of_a_run_go_to_its_clips(file):
    path = file()
    item = {"image": path, "site": "Ulm", "age": 31.5, "mask": path.with_name("m.nii"), "events": [1, 2], "run": "LR"}
    given = dict(item)
    clip = strided_clips(item, 5)[1]
    assert (clip["site"], clip["age"], clip["run"], clip["subject"]) == ("Ulm", 31.5, "LR", "01")
    assert clip["mask"] == str(path.with_name("m.nii"))
    assert "events" not in clip
    assert item == given


def test_repetition_time_of_an_item_reaches_the_reader(file):
    path = file(tr=0.0)
    with pytest.raises(ValueError, match="has no repetition time"):
        strided_clips(path, 5)
    clip = strided_clips({"image": path, "tr": 1.5}, 5)[1]
    assert (clip["tr"], clip["start_time"]) == (1.5, 7.5)
    assert LoadBOLDd("image")(clip)["image"].meta["start_time"] == 7.5


def test_random_clips(file):
    one, other = file("sub-1_bold.nii", 100), file("sub-2_bold.nii", 100)
    clips = random_clips([one, other], 7, per_run=400)
    starts = [clip["start_frame"] for clip in clips]
    assert {clip["frames"][1] - clip["frames"][0] for clip in clips} == {7}
    for part in (starts[:400], starts[400:]):
        assert (min(part), max(part)) == (0, 93)
        assert np.mean(part) == pytest.approx(46.5, abs=4)
    assert starts[:400] != starts[400:]


def test_random_clips_of_files_that_are_named_alike(file):
    # as HCP's rfMRI_REST1_LR.nii.gz in the folder of every subject
    path = file("rest.nii", 100)
    clips = random_clips([run_item(path, subject=subject) for subject in ("a", "b")], 7, per_run=5)
    assert [clip["frames"] for clip in clips[:5]] != [clip["frames"] for clip in clips[5:]]


def test_random_clips_belong_to_the_seed_and_the_run(file):
    one, other = file("sub-1_bold.nii", 100), file("sub-2_bold.nii", 100)
    alone = [clip["frames"] for clip in random_clips(one, 7, per_run=5, seed=3)]
    assert alone == [clip["frames"] for clip in random_clips([other, one], 7, per_run=5, seed=3)[5:]]
    assert alone == [clip["frames"] for clip in random_clips(load_bold(one), 7, per_run=5, seed=3)]
    assert alone != [clip["frames"] for clip in random_clips(one, 7, per_run=5, seed=4)]
    (whole,) = random_clips(one, seconds=200.0, per_run=1)
    assert whole["frames"] == (0, 100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 11}, r"the run has 10 frames \(20 s\), fewer than a clip of 11 frames: give a shorter"),
        ({"seconds": 22.0}, r"the run has 10 frames \(20 s\), fewer than a clip of 22 s: give a shorter"),
        ({"num_frames": 0}, r"a clip of 0 frames holds no whole frame of the run \(tr 2 s\): make it longer"),
        ({"seconds": 1.9}, r"a clip of 1\.9 s holds no whole frame of the run \(tr 2 s\): make it longer"),
        ({}, r"num_frames is None and seconds is None: give the length as one of the two"),
        ({"num_frames": 2, "seconds": 4.0}, r"num_frames is 2 and seconds is 4\.0: give the length as one"),
        ({"num_frames": 2, "stride": 0}, r"stride is 0 frames, but clips start one or more whole frames after"),
        ({"num_frames": 2, "stride": 1.5}, r"stride is 1\.5 frames, but clips start one or more whole frames after"),
        ({"seconds": 4.0, "stride": 1.0}, r"stride is 1 s, but clips start one or more whole frames after"),
        ({"num_frames": 2, "stride": float("nan")}, "stride is nan frames, but clips start one or more"),
        ({"seconds": float("nan")}, r"a clip of nan s holds no whole frame of the run"),
    ],
)
def test_clips_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        strided_clips(make_run(), **arguments)
    if "stride" not in arguments:
        with pytest.raises(ValueError, match=message):
            random_clips(make_run(), **arguments, per_run=1)


def test_no_clips_asked_for():
    with pytest.raises(ValueError, match="per_run is 0: draw at least one clip"):
        random_clips(make_run(), 2, per_run=0)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (torch.zeros(10, 2, 3, 4), r"bold has no repetition time: read it with nstorm\.data\.load_bold"),
        (MetaTensor(torch.zeros(10, 2, 3, 4)), "bold has no repetition time"),
        (torch.zeros(2, 3, 4), r"bold has shape \(2, 3, 4\), but a run or a clip is"),
        (make_run(tr=0.0), r"meta\['tr'\] of the run is 0: set it to the seconds of a frame"),
        (make_run(tr=float("nan")), r"meta\['tr'\] of the run is nan: set it"),
        (scrub(make_run(), torch.arange(10) != 5, mode="drop"), "bold has lost frames and those left are not evenly"),
        ([], "runs is empty: give at least one run"),
        ({"image": make_run(), "age": None}, "age of the run is None, which cannot be batched: leave the key out"),
        (
            {"image": make_run(), "frames": 3},
            "run item of the run has the key 'frames', which clips set: give it",
        ),
        ({"image": make_run(), "tr": 3.0}, "run item of the run has the key 'tr', which clips set: give it"),
        (
            [{"image": make_run(), "age": 3.0}, make_run()],
            "only one of the run and the run has age, so that their",
        ),
    ],
)
def test_what_is_no_run(run, message):
    with pytest.raises(ValueError, match=message):
        strided_clips(run, 2)


def test_item_without_an_image():
    with pytest.raises(KeyError, match="a run item has only the keys \\['path'\\]: give it the key 'image'"):
        strided_clips({"path": "a.nii"}, 2)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.nii"):
        strided_clips(tmp_path / "absent.nii", 2)


READ = Compose([LoadBOLDd("image"), TimeToLastd("image")])


@pytest.fixture
def clips():
    """Three clips of each of two runs, one without a site."""
    labels = [{"site": "Ulm", "age": 31.5}, {"site": "", "age": float("nan")}]
    runs = [run_item(run.bold, **label) for run, label in zip(haxby_runs(), labels, strict=False)]
    return strided_clips(runs, 20, stride=40)


@pytest.mark.parametrize("kind", ["Dataset", "CacheDataset", "PersistentDataset"])
def test_clips_are_items_of_monai_datasets(clips, tmp_path, kind):
    make = {
        "Dataset": Dataset,
        "CacheDataset": lambda data, transform: CacheDataset(data, transform, progress=False),
        "PersistentDataset": lambda data, transform: PersistentDataset(
            data, transform, cache_dir=tmp_path, track_meta=True, weights_only=False
        ),
    }[kind]
    for _ in range(2):  # the second time from the cache
        dataset = make(clips, READ)
        for clip, item in zip(clips, dataset, strict=True):
            whole = load_bold(clip["image"]).as_tensor()
            expected = whole[slice(*clip["frames"])].movedim(0, -1)[None]
            assert torch.equal(item["image"].as_tensor(), expected)
            assert item["image"].meta["start_time"] == item["start_time"] == clip["start_frame"] * 2.5
            assert (item["run"], item["site"]) == (clip["run"], clip["site"])


@pytest.mark.parametrize("kind", ["two workers", "threads"])
def test_clips_are_batched_by_monai(clips, kind):
    dataset = Dataset(clips, READ)
    if kind == "two workers":
        loader = DataLoader(dataset, batch_size=4, num_workers=2)
    else:
        loader = ThreadDataLoader(dataset, batch_size=4, num_workers=0)
    first, second = loader
    assert first["image"].shape == (4, 1, 40, 20, 1, 20)
    assert second["image"].shape == (2, 1, 40, 20, 1, 20)
    assert first["run"] == ["01", "01", "01", "02"]
    assert first["site"] == ["Ulm", "Ulm", "Ulm", ""]
    assert first["start_time"].tolist() == [0.0, 100.0, 200.0, 0.0]
    assert [stop.tolist() for stop in first["frames"]] == [[0, 40, 80, 0], [20, 60, 100, 20]]
    assert first["image"].meta["tr"].tolist() == [2.5] * 4
    third = decollate_batch(first)[2]
    assert (third["subject"], third["start_frame"], third["frames"]) == ("001", 80, [80, 100])


def test_clips_in_memory_are_batched_by_monai():
    batch = list_data_collate(strided_clips([make_run(), make_run(tr=3.0)], 4))
    assert batch["image"].shape == (4, 1, 2, 3, 4, 4)
    assert batch["tr"].tolist() == [2.0, 2.0, 3.0, 3.0]
    assert batch["session"] == [""] * 4
