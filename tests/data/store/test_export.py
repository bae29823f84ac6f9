import json
import math

import numpy as np
import pytest
import torch

from nstorm.data import haxby_runs, load_bold, load_mask, read_events
from nstorm.data.files.sidecar import inherited_value
from nstorm.data.store.export import export
from nstorm.data.store.store import Store
from nstorm.data.store.write import write_run
from tests.data.store.runs import AFFINE, SHAPE, fabricated, haxby, put, rest


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", create=True)


@pytest.mark.parametrize("recording", [rest, haxby], ids=["rest", "haxby"])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_a_recording_to_half_a_step(tmp_path, store, recording, dtype):
    values, mask, bold = recording()
    # a part, for the time that gzip takes
    values = values[:40]
    write_run(
        store.place,
        "sub-1_task-x",
        values,
        mask,
        affine=bold.affine.numpy(),
        tr=bold.meta["tr"],
        dtype=dtype,
        space_code=4,
    )
    store.refresh()
    (image,) = export(store, tmp_path / "nifti", progress=False)
    again = load_bold(image)
    assert image == tmp_path / "nifti" / "sub-1_task-x_bold.nii.gz"
    assert torch.equal(again.affine, bold.affine)
    assert again.meta["tr"] == bold.meta["tr"]
    assert again.meta["space_code"] == 4
    assert inherited_value(image, "RepetitionTime")[1] == bold.meta["tr"]
    saved_mask = load_mask(image.with_name("sub-1_task-x_desc-brain_mask.nii.gz"), like=again)
    assert np.array_equal(saved_mask[0].numpy(), mask)
    assert torch.equal(saved_mask.affine, bold.affine)
    inside = again.as_tensor().numpy()[:, mask]
    half_a_step = store["sub-1_task-x"].array("voxels")[0] / 2 if dtype == "int8" else 0
    assert (np.abs(inside - values) <= half_a_step * 1.001 + np.spacing(values) * (dtype == "int8")).all()
    assert np.array_equal(inside, store["sub-1_task-x"].read_brain())
    assert not again.as_tensor().numpy()[:, ~mask].any()


def test_normalised(tmp_path, store):
    put(store)
    store.refresh()
    (image,) = export(store, tmp_path / "nifti", normalize="zscore", progress=False)
    expected = store["sub-1"].read(normalize="zscore")[0].movedim(-1, 0)
    assert torch.equal(load_bold(image).as_tensor(), expected.as_tensor())


def test_events_count_from_the_first_frame(tmp_path, store):
    events = read_events(haxby_runs()[0].events)
    kept = [{"onset": event.onset, "duration": event.duration, "trial_type": event.trial_type} for event in events]
    kept[1]["duration"] = None
    put(store, attributes={"events": kept}, start_time=6.0)
    put(store, "sub-2")
    store.refresh()
    export(store, tmp_path / "nifti", progress=False)
    again = read_events(tmp_path / "nifti" / "sub-1_events.tsv")
    assert [event.onset for event in again] == [event.onset - 6.0 for event in events]
    assert [event.trial_type for event in again] == [event.trial_type for event in events]
    assert math.isnan(again[1].duration)
    assert again[2].duration == events[2].duration
    assert not (tmp_path / "nifti" / "sub-2_events.tsv").exists()


def test_some_runs_and_only_whole_files(tmp_path, store):
    for number in range(3):
        put(store, f"sub-{number}")
    store.refresh()
    images = export(store, tmp_path / "nifti", ["sub-2", "sub-0"], progress=False)
    assert [image.name for image in images] == ["sub-2_bold.nii.gz", "sub-0_bold.nii.gz"]
    endings = ["_bold.json", "_bold.nii.gz", "_desc-brain_mask.nii.gz"]
    assert sorted(file.name for file in (tmp_path / "nifti").iterdir()) == [
        f"sub-{number}{ending}" for number in (0, 2) for ending in endings
    ]


def test_nothing_is_replaced_or_begun_by_mistake(tmp_path, store):
    for number in range(3):
        put(store, f"sub-{number}")
    store.refresh()
    with pytest.raises(KeyError, match="has no run 'sub-7'"):
        export(store, tmp_path / "nifti", ["sub-1", "sub-7"], progress=False)
    assert not (tmp_path / "nifti").exists()
    export(store, tmp_path / "nifti", ["sub-1"], progress=False)
    with pytest.raises(
        FileExistsError, match=r"nifti has 2 files of these runs already \(sub-1_bold.nii.gz, .*: give another"
    ):
        export(store, tmp_path / "nifti", progress=False)
    assert not (tmp_path / "nifti" / "sub-0_bold.nii.gz").exists()
    assert len(export(store, tmp_path / "nifti", overwrite=True, progress=False)) == 3


@pytest.mark.parametrize("ending", ["desc-brain_mask.nii.gz", "events.tsv"])
def test_a_mask_or_events_of_that_name_are_not_lost(tmp_path, store, ending):
    put(store)
    store.refresh()
    mine = tmp_path / f"sub-1_{ending}"
    mine.write_text("mine")
    with pytest.raises(FileExistsError, match=rf"has 1 file of these runs already \(sub-1_{ending}\)"):
        export(store, tmp_path, progress=False)
    assert mine.read_text() == "mine"
    assert not (tmp_path / "sub-1_bold.nii.gz").exists()
    # events of another version of the run would be wrong
    export(store, tmp_path, overwrite=True, progress=False)
    assert (ending == "events.tsv") != mine.exists()


def test_a_damaged_run_leaves_no_image(tmp_path, store):
    record = put(store)
    store.refresh()
    store.place.remove(f"{record.folder}/bold/c/1")
    with pytest.raises(FileNotFoundError, match="bold has no chunk with frame 20"):
        export(store, tmp_path / "nifti", progress=False)
    assert not (tmp_path / "nifti" / "sub-1_bold.nii.gz").exists()


def test_from_an_object_store(tmp_path):
    store = Store(f"memory://{tmp_path.name}", create=True)
    values, mask = fabricated()
    write_run(store.place, "sub-1", values, mask, affine=AFFINE, tr=0.72, dtype="float32")
    store.refresh()
    (image,) = export(store, tmp_path / "nifti", progress=False)
    again = load_bold(image)
    assert again.shape == (50, *SHAPE)
    assert again.meta["tr"] == 0.72
    assert np.array_equal(again.as_tensor().numpy()[:, mask], values)
    assert json.loads(image.with_name("sub-1_bold.json").read_text()) == {"RepetitionTime": 0.72}
