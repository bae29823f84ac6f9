"""What is kept beside the voxels of a run, and what happens where its files are at fault."""

import math
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data import (
    clean,
    framewise_displacement,
    haxby_runs,
    load_bold,
    load_confounds,
    load_mask,
    read_events,
    remove_dummy_scans,
    reorient,
    rest_run,
    run_item,
    save_bold,
    save_mask,
    scrub,
)
from nstorm.data.preparation.one_run import prepare_run
from nstorm.data.preparation.presets import PRESETS
from nstorm.data.preparation.recipe import Recipe
from nstorm.data.preparation.sources import CHANGED, OTHERWISE, why_again
from nstorm.data.preparation.threads import one_thread
from nstorm.data.store.store import Store
from tests.data.fmriprep import BAD_FRAMES, NUM_FRAMES, confounds_table, write_derivatives
from tests.data.preparation.stores import content_of, flip_bit, prepared, truncate


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", create=True)


def write_run(folder, tr=2.0, num_frames=25, **options):
    values = 100 + torch.randn(num_frames, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    affine = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0], dtype=torch.float64))
    bold = MetaTensor(values, affine=affine, meta={"tr": tr, **options})
    mask = MetaTensor(torch.ones(1, 6, 5, 7, dtype=torch.bool), affine=affine)
    return run_item(
        save_bold(folder / "sub-1_task-rest_bold.nii.gz", bold, overwrite=True),
        mask=save_mask(folder / "mask.nii", mask, overwrite=True),
    )


@pytest.fixture
def item(tmp_path):
    return write_run(tmp_path)


def nothing_is_left(store):
    assert store.place.names("commits") == []
    return [name for key in store.place.names("runs") for name in store.place.names(f"runs/{key}")] == []


def test_labels_are_all_but_the_files(store, item):
    item |= {"site": "Leipzig", "age": np.float64(24.5), "session": "", "score": math.nan, "sidecar": "", "tr": 2}
    found = prepared(store, item, Recipe()).record
    labels = dict(found.labels)
    assert math.isnan(labels.pop("score"))
    assert labels == {
        "subject": "1", "session": "", "task": "rest", "acquisition": "", "direction": "", "run": "",
        "site": "Leipzig", "age": 24.5,
    }  # fmt: skip
    assert type(labels["age"]) is float
    (read_again,) = Store(store.place.url).run_items()
    assert read_again["site"] == "Leipzig"
    assert read_again["tr"] == 2.0


def test_label_that_json_cannot_hold(store, item):
    with pytest.raises(ValueError, match=r"the label frames of .*bold.nii.gz is a tuple, but a store keeps text and"):
        prepare_run({**item, "frames": (0, 5)}, store.place, Recipe())


def test_key_is_that_of_the_item_or_given(store, item):
    assert prepare_run(item, store.place, Recipe()).key == "sub-1_task-rest"
    assert prepare_run({**item, "subject": ""}, store.place, Recipe(), key="one").key == "one"
    with pytest.raises(ValueError, match="has no subject"):
        prepare_run({**item, "subject": ""}, store.place, Recipe())


def test_events_are_kept(store):
    run = haxby_runs()[0]
    found = prepared(store, run_item(run.bold, events=run.events), Recipe(dummy_scans=2))
    kept = found.attributes["events"]
    assert [(event["onset"], event["duration"], event["trial_type"]) for event in kept] == [
        (event.onset, event.duration, event.trial_type) for event in read_events(run.events)
    ]
    assert found.read(0, 2).meta["start_time"] == 5.0


def test_events_that_lack_what_they_need(store, item, tmp_path):
    events = tmp_path / "events.tsv"
    item |= {"events": str(events)}
    # BIDS asks for onset and duration
    for content, expected in (
        ("onset\tduration\ttrial_type\n1.0\tn/a\tface\n", [(1.0, None, "face")]),
        ("onset\tduration\n1.0\t2\n-3\t0\n", [(1.0, 2.0, ""), (-3.0, 0.0, "")]),
        ("onset\tduration\ttrial_type\n1.0\t2\tn/a\n", [(1.0, 2.0, "")]),
        ("onset\tduration\ttrial_type\n", []),
        ("", []),
    ):
        events.write_text(content)
        found = prepared(store, item, Recipe()).attributes["events"]
        assert [(event["onset"], event["duration"], event["trial_type"]) for event in found] == expected
    events.write_text("time\tduration\n1.0\t2\n")
    with pytest.raises(
        ValueError, match=r"events.tsv has the columns \['time', .* onset and a duration.*leave 'events' o"
    ):
        prepare_run(item, store.place, Recipe())
    for line in ("n/a\t2", "1\t-2", "inf\t2", "1\tinf"):
        events.write_text(f"onset\tduration\n0\t1\n{line}\n")
        with pytest.raises(ValueError, match=r"events.tsv, line 3: onset is '.*these are seconds: correct them"):
            prepare_run(item, store.place, Recipe())


def derivative(folder, **options):
    image = write_derivatives(folder)
    confounds = next(folder.glob("*confounds*.tsv"))
    return run_item(image, confounds=confounds, space="MNI152NLin2009cAsym", **options)


def test_motion_goes_with_the_frames(store, tmp_path):
    table = confounds_table(NUM_FRAMES)
    parameters = np.stack([table[name] for name in ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")], 1)
    item = derivative(tmp_path)
    found = prepared(store, item, Recipe())
    np.testing.assert_allclose(found.array("motion"), parameters, rtol=1e-6)
    np.testing.assert_allclose(found.array("series")[2], table["framewise_displacement"], rtol=1e-6)

    found = prepared(store, item, Recipe(dummy_scans=5))
    assert found.num_frames == NUM_FRAMES - 5
    np.testing.assert_allclose(found.array("motion"), parameters[5:], rtol=1e-6)

    # frames of 1 s begin at 5, 6, 7 ... s, and those of the recording every 2.5 s
    found = prepared(store, item, Recipe(dummy_scans=2, tr=1.0))
    frames = np.rint((5 + np.arange(found.num_frames)) / 2.5).astype(int)
    assert found.record.start_time == 5.0
    assert found.array("series").shape[1] == found.num_frames == 297
    np.testing.assert_allclose(found.array("motion"), parameters[frames], rtol=1e-6)
    np.testing.assert_allclose(found.array("series")[2], table["framewise_displacement"][frames], rtol=1e-6)


def test_displacement_follows_from_motion_parameters(store, item, tmp_path):
    names = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    motion = np.random.RandomState(0).normal(0, 0.01, (25, 6))
    path = tmp_path / "confounds.tsv"
    np.savetxt(path, motion, delimiter="\t", header="\t".join(names), comments="")
    found = prepared(store, {**item, "confounds": str(path)}, Recipe())
    np.testing.assert_allclose(found.array("series")[2], framewise_displacement(motion), rtol=1e-4)


def test_tables_that_do_not_say_how_the_head_moved(store, item, tmp_path):
    path = tmp_path / "movement.txt"
    for content in ("", "0.1  0.2  0.3\n0.1  0.2  0.3\n", "csf\n1\n2\n"):
        path.write_text(content)
        found = prepared(store, {**item, "confounds": str(path)}, Recipe())
        assert "motion" not in found.record.checksums
        assert np.isnan(found.array("series")[2]).all()
    path.write_text("framewise_displacement\n" + "0.1\n" * 24)
    with pytest.raises(ValueError, match=r"movement.txt has 24 rows, but the run has 25 frames: give its own table"):
        prepare_run({**item, "confounds": str(path)}, store.place, Recipe())


def test_confounds_are_removed_and_bad_frames_replaced(store, tmp_path):
    item = derivative(tmp_path)
    options = {"fd_threshold": 0.5, "scrub": 0, "motion": "basic"}
    recipe = Recipe(confounds="scrubbing", confound_options=options, dummy_scans=1, dtype="float32")
    found = prepared(store, item, recipe)

    chosen = load_confounds(item["image"], "scrubbing", **options)
    # the first two frames are not steady, those in the middle have moved
    assert (~chosen.keep).nonzero()[:, 0].tolist() == [0, 1, *BAD_FRAMES]
    bold = remove_dummy_scans(reorient(load_bold(item["image"], dtype=torch.float64)), 2)
    mask = torch.from_numpy(found.mask)
    cleaned = clean(bold, confounds=chosen.values[2:], detrend=0, keep=chosen.keep[2:], mask=mask)
    expected = bold.clone()
    expected[chosen.keep[2:]] = cleaned.as_tensor()
    expected = scrub(expected, chosen.keep[2:]).numpy()[:, found.mask]
    np.testing.assert_allclose(found.read_brain(0, found.num_frames), expected, rtol=1e-5)
    assert found.attributes["replaced_frames"] == BAD_FRAMES
    assert found.record.start_time == 5.0
    assert found.num_frames == len(found.array("motion")) == NUM_FRAMES - 2


def test_confounds_have_to_lie_beside_the_image(store, tmp_path):
    item = derivative(tmp_path)
    elsewhere = tmp_path / "elsewhere" / "confounds.tsv"
    elsewhere.parent.mkdir()
    elsewhere.write_text("")
    for table in ("", str(elsewhere)):
        with pytest.raises(ValueError, match=f"bold.nii.gz has {table or 'no table'} under 'confounds', but the rec"):
            prepare_run({**item, "confounds": table}, store.place, Recipe(confounds="simple"))


def test_nothing_is_left_of_a_run(store, item):
    with pytest.raises(ValueError, match=r"bold.nii.gz has no frame left of 25, without 25 dummy scans and those that"):
        prepare_run(item, store.place, Recipe(dummy_scans=25))


@pytest.mark.parametrize("name", PRESETS)
def test_twice_the_same(tmp_path, name):
    found = []
    for folder in ("one", "two"):
        store = Store(tmp_path / folder, create=True)
        run = rest_run()
        item = run_item(save_bold(tmp_path / "sub-1_bold.nii", load_bold(run.bold, frames=(0, 21)), overwrite=True))
        prepare_run(item, store.place, PRESETS[name])
        (content,) = content_of(tmp_path / folder).values()
        del content["record"]["sources"]["image"]["mtime_ns"]
        found.append(content)
    assert found[0] == found[1]


def test_threads_make_no_difference_and_stay_as_they_were(tmp_path, item):
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            record = prepare_run(item, Store(tmp_path / str(threads), create=True).place, Recipe(spacing=5.0, tr=1.5))
            assert torch.get_num_threads() == threads
            found.append(record.checksums)
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_threads_that_prepare_at_once_share_the_limit():
    before = torch.get_num_threads()
    first_left = threading.Event()
    both = threading.Barrier(2)
    seen = []

    def first():
        with one_thread():
            both.wait(10)
        first_left.set()

    def second():
        with one_thread():
            both.wait(10)
            assert first_left.wait(10)
            seen.append(torch.get_num_threads())

    try:
        torch.set_num_threads(3)
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(first), pool.submit(second)]:
                done.result()
        with one_thread():
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1, 3]


def test_what_is_said_of_the_preparation(store, item):
    recipe = pickle.loads(pickle.dumps(Recipe(tr=1.0, dtype="int16")))
    found = prepared(store, item, recipe)
    about = found.attributes
    assert about["recipe"]["tr"] == 1.0
    assert found.record.sources["tr"] == {"seconds": 2.0}
    assert about["source"] == {
        "shape": [6, 5, 7, 25],
        "affine": np.diag([3.0, 3, 3, 1]).tolist(),
        "tr": 2.0,
        "dtype": "float32",
        "space_code": 2,
    }
    assert about["mask"] == "file"
    assert torch.__version__.startswith(about["versions"]["torch"])
    assert about["times"]["seconds"] >= 0
    assert found.record.recipe == recipe.digest
    assert found.record.dtype == "int16"
    assert set(found.record.sources) == {"image", "mask", "tr"}
    assert found.record.sources["image"]["path"] == item["image"]


def test_progress_grows_to_1(store):
    told = []
    item = run_item(haxby_runs()[0].bold)
    prepare_run(item, store.place, Recipe(tr=1.0), progress=lambda *now: told.append(now))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert list(dict.fromkeys(stage for stage, _ in told)) == [
        "opening", "finding the brain", "reading", "steps in time", "measuring quality", "writing"
    ]  # fmt: skip


def test_a_run_is_current_until_a_file_or_the_recipe_changes(store, item, tmp_path):
    recipe = Recipe()
    record = prepare_run(item, store.place, recipe)
    assert why_again(item, record, recipe) == ""
    assert why_again(item, record, recipe.but(tr=1.0)) == OTHERWISE
    assert why_again({**item, "mask": ""}, record, recipe) == CHANGED
    assert why_again({**item, "mask": str(tmp_path / "gone.nii")}, record, recipe) == CHANGED
    assert why_again({**item, "age": 3, "sidecar": ""}, record, recipe) == ""
    # another time, and elsewhere: the content tells
    os.utime(item["image"], ns=(0, 0))
    assert why_again(item, record, recipe) == ""
    assert why_again({**item, "image": os.path.relpath(item["image"])}, record, recipe) == ""
    content = bytearray((tmp_path / "mask.nii").read_bytes())
    content[-1] ^= 1
    (tmp_path / "mask.nii").write_bytes(content)
    os.utime(item["mask"], ns=(0, 0))
    assert why_again(item, record, recipe) == CHANGED
    # same size and time: nothing is read
    mask = {**record.sources["mask"], "mtime_ns": 0}
    assert why_again(item, replace(record, sources={**record.sources, "mask": mask}), recipe) == ""
    write_run(tmp_path, num_frames=24)
    assert why_again(item, record, recipe) == CHANGED


def test_the_tr_is_what_all_sidecars_and_the_item_say(store, item, tmp_path):
    bold = nibabel.load(item["image"])
    bold.header["pixdim"][4] = 0
    nibabel.save(bold, item["image"])
    # one above, as BIDS allows; it is no file of the item
    sidecar = tmp_path / "task-rest_bold.json"
    sidecar.write_text('{"RepetitionTime": 1.5}')
    record = prepare_run(item, store.place, Recipe())
    assert record.tr == 1.5
    sidecar.write_text('{"RepetitionTime": 1.5, "EchoTime": 0.03}')
    assert why_again(item, record, Recipe()) == ""
    assert why_again({**item, "tr": 1.5}, record, Recipe()) == ""
    assert why_again({**item, "tr": 1.25}, record, Recipe()) == CHANGED
    sidecar.write_text('{"RepetitionTime": 2.0}')
    assert why_again(item, record, Recipe()) == CHANGED
    sidecar.unlink()
    assert why_again(item, record, Recipe()) == CHANGED
    record = prepare_run({**item, "tr": 1.25}, store.place, Recipe())
    assert record.tr == record.sources["tr"]["seconds"] == 1.25


@pytest.mark.parametrize("ending", [".hdr", ".img"])
def test_both_files_of_a_pair_are_sources(store, item, tmp_path, ending):
    bold = nibabel.load(item["image"])
    nibabel.save(nibabel.Nifti1Pair(np.asarray(bold.dataobj), bold.affine, bold.header), tmp_path / "pair.hdr")
    item |= {"image": str(tmp_path / f"pair{ending}")}
    record = prepare_run(item, store.place, Recipe())
    assert {os.path.basename(source["path"]) for name, source in record.sources.items() if name != "tr"} == {
        "pair.hdr",
        "pair.img",
        "mask.nii",
    }
    with open(tmp_path / "pair.img", "r+b") as file:
        file.write(b"1234")
    assert why_again(item, record, Recipe()) == CHANGED


def test_what_says_which_confounds_there_are_is_a_source(store, tmp_path):
    item = derivative(tmp_path)
    recipe = Recipe(confounds="compcor", confound_options={"motion": "basic"})
    record = prepare_run(item, store.place, recipe)
    about = next(tmp_path.glob("*timeseries.json"))
    about.write_text(about.read_text().replace("combined", "CSF"))
    assert why_again(item, record, recipe) == CHANGED
    assert "confounds.json" not in prepare_run(item, store.place, Recipe()).sources


@pytest.mark.parametrize("space", ["T1w", "func", "", None])
def test_a_run_in_native_space_is_refused_on_the_grid_of_mni152(store, tmp_path, space):
    item = write_run(tmp_path, space_code=1)
    item |= {} if space is None else {"space": space}
    for recipe in (PRESETS["4mm"], PRESETS["published"]):
        with pytest.raises(ValueError, match=r"sub-1_task-rest_bold.nii.gz is in the space of one person or scanner"):
            prepare_run(item, store.place, recipe)
        assert prepare_run({**item, "space": "MNI152NLin6Asym"}, store.place, recipe).space_code == 1
    assert prepare_run(item, store.place, PRESETS["native"]).num_voxels == 210


@pytest.mark.parametrize("recipe", [Recipe(), PRESETS["published"]], ids=str)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("damage", [truncate, flip_bit])
def test_damage(store, tmp_path, recipe, masked, damage):
    image = tmp_path / "sub-1_bold.nii.gz"
    image.write_bytes(haxby_runs()[0].bold.read_bytes())
    damage(image)
    item = run_item(image, space="MNI152", **({"mask": _whole_mask(tmp_path, image)} if masked else {}))
    with pytest.raises(ValueError, match=rf"{image} is damaged or no NIfTI image .*: copy or export it again"):
        prepare_run(item, store.place, recipe)
    assert nothing_is_left(store)


def _whole_mask(folder, image):
    bold = load_bold(haxby_runs()[0].bold, frames=(0, 2))
    mask = MetaTensor(torch.ones(1, *bold.shape[1:], dtype=torch.bool), affine=bold.affine)
    return save_mask(folder / "mask.nii", mask, overwrite=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite(store, tmp_path, value):
    item = write_run(tmp_path)
    bold = load_bold(item["image"])
    bold[19, 1, 2, 3] = value
    save_bold(item["image"], bold, overwrite=True)
    with pytest.raises(ValueError, match=r"bold.nii.gz has (NaN|infinite) values in 1 voxels, in frame 19: "):
        prepare_run(item, store.place, Recipe())
    assert nothing_is_left(store)
    if math.isnan(value):
        found = prepared(store, item, Recipe(fill_nan=90.0, dtype="float32"))
        assert (found.read_brain(19, 20) == 90).sum() == 1


def test_a_run_that_does_not_change(store, tmp_path):
    item = write_run(tmp_path)
    bold = load_bold(item["image"])
    save_bold(item["image"], bold[:1].expand(25, -1, -1, -1).clone(), overwrite=True)
    with pytest.raises(ValueError, match=r"bold.nii.gz has no voxel of the brain that changes"):
        prepare_run(item, store.place, Recipe())


def test_messages_name_the_file(store, item, tmp_path):
    with pytest.raises(ValueError, match=r"bold.nii.gz: high_pass is 0.3 Hz, but frames of 2 s hold"):
        prepare_run(item, store.place, Recipe(high_pass=0.3))
    with pytest.raises(
        ValueError, match=r"bold.nii.gz has no mask, and none can be found in its mean image \(no voxel"
    ):
        prepare_run({**item, "mask": ""}, store.place, Recipe())
    far = MetaTensor(load_bold(item["image"]).as_tensor(), affine=torch.eye(4).double(), meta={"tr": 2.0})
    far.affine[:3, 3] = 900.0
    save_bold(item["image"], far, overwrite=True)
    with pytest.raises(ValueError, match=r"mask.nii has no voxel of its mask within the grid"):
        prepare_run(item, store.place, Recipe())
    with pytest.raises(FileNotFoundError, match=r"mask_of_another.nii"):
        prepare_run({**item, "mask": str(tmp_path / "mask_of_another.nii")}, store.place, Recipe())
    assert nothing_is_left(store)


def test_a_file_that_is_written_while_it_is_read(store, item):
    def write(stage, share):
        if stage == "reading":
            os.utime(item["image"], ns=(0, 0))

    with pytest.raises(OSError, match=r"bold.nii.gz has changed while it was read"):
        prepare_run(item, store.place, Recipe(), progress=write)
    assert nothing_is_left(store)


def test_an_interrupt_while_writing_leaves_nothing(store, item):
    def stop(stage, share):
        if stage == "writing" and share > 0.9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_run(item, store.place, Recipe(), progress=stop)
    assert nothing_is_left(store)


def test_an_empty_mask_after_resampling(store, tmp_path, item):
    mask = load_mask(item["mask"])
    mask[:] = False
    mask[0, 0, 0, 0] = True
    with pytest.raises(ValueError, match=rf"^{item['mask']} has no voxel of the brain on the voxels of"):
        prepare_run({**item, "mask": save_mask(item["mask"], mask, overwrite=True)}, store.place, Recipe(spacing=9.0))
