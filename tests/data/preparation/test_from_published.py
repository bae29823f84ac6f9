import logging
import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nstorm.data import Study, haxby_runs, load_bold, prepare_published
from nstorm.data.preparation.failures import PrepareError
from nstorm.data.preparation.from_published import convert_published, published_runs
from nstorm.data.preparation.one_run import prepare_run
from nstorm.data.preparation.presets import PRESETS
from nstorm.data.preparation.published_run import convert_run
from nstorm.data.store.published_format import load_published
from nstorm.data.store.store import Store
from tests.data.store.published_files import (
    write_data_pt,
    write_each_frame,
    write_frames_and_step,
    write_frames_pt,
)

AFFINE = np.diag([-2.0, 2, 2, 1])
STEP = 0.02


def codes(seed=0, num_frames=25, shape=(6, 5, 4)):
    random = np.random.default_rng(seed)
    frames = np.round(random.integers(-60, 100, shape) + random.normal(0, 3, (num_frames, *shape)))
    frames[:, 0] = -100
    return torch.from_numpy(frames.astype(np.int8))


def converted(runs, store, **options):
    return convert_published(runs, store, affine=AFFINE, progress=False, **options)


def as_loaded(clip):
    return clip.as_tensor()[0].movedim(-1, 0)


@pytest.fixture
def img(tmp_path):
    img = tmp_path / "img"
    write_frames_and_step(img / "100307", codes(0), STEP)
    write_frames_and_step(img / "100408", codes(1), STEP)
    write_each_frame(img / "site" / "sub-03_ses-1_task-rest", codes(2) * STEP)
    (tmp_path / "metadata").mkdir()
    return img


@pytest.mark.parametrize(("write", "steps"), [(write_data_pt, 1), (write_frames_pt, 0)])
def test_global_reads_what_the_files_of_a_real_recording_hold(write, steps, tmp_path):
    bold = load_bold(haxby_runs()[0].bold, frames=(0, 30))
    prepared, step = prepare_published(bold, quantize=True)
    folder = write(tmp_path / "img" / "sub-001", bold)
    store = convert_published(folder, tmp_path / "store", affine=prepared.affine, progress=False)
    run = store["sub-001"]
    loaded = load_published(folder, affine=prepared.affine)
    read = run.read(normalize="global")
    assert run.mask.any()
    assert not run.mask.all()
    np.testing.assert_array_equal(run.mask, (loaded != loaded.min()).any(0))
    # exact where the store keeps nothing
    assert torch.equal(as_loaded(read)[:, ~run.mask], loaded.as_tensor()[:, ~run.mask])
    apart = (as_loaded(read) - loaded.as_tensor()).abs()[:, run.mask].numpy()
    extent = np.ptp(run.read_brain(0, run.num_frames), axis=0)
    assert (apart <= extent / 254 / 2 + 1e-5).all()
    if steps:
        assert run.record.dtype == "int8"
        assert apart.max() < 1e-6
        # the very codes come back
        assert torch.equal((as_loaded(read) / step).round(), prepared.as_tensor().float())
    torch.testing.assert_close(read.affine, prepared.affine)
    assert {key: read.meta[key] for key in ("tr", "start_frame", "start_time", "space_code")} == {
        "tr": 0.8,
        "start_frame": 0,
        "start_time": 0.0,
        "space_code": 4,
    }


def test_converted_and_prepared_runs_read_alike(tmp_path):
    run = haxby_runs()[0]
    bold = load_bold(run.bold)
    step = prepare_published(bold, quantize=True)[1]
    folder = write_data_pt(tmp_path / "img" / "sub-001", bold)
    store = Store(tmp_path / "store", create=True)
    prepare_run({"image": str(run.bold), "space": "MNI152"}, store.place, PRESETS["published"], key="prepared")
    store.refresh()
    prepared = store["prepared"].read(normalize="global")
    affine = prepared.affine.numpy()
    convert_published(folder, store, affine=affine, progress=False)
    read = store["sub-001"].read(normalize="global")
    assert read.shape == prepared.shape
    assert (read.as_tensor() - prepared.as_tensor()).abs().max() < 0.6 * step
    assert store["sub-001"].record.recipe == store["prepared"].record.recipe
    assert read.meta["tr"] == prepared.meta["tr"]


def test_values_are_in_proportion_to_intensities(tmp_path):
    # intensities that the published preparation standardises
    random = np.random.default_rng(0)
    intensities = 500 + 400 * random.random((5, 6, 4)) + random.normal(0, 5, (40, 5, 6, 4))
    intensities[:, :2] = 0
    inside = intensities > 0
    mean, std = intensities[inside].mean(), intensities[inside].std(ddof=1)
    values = torch.from_numpy((intensities - mean) / std)
    store = converted(write_each_frame(tmp_path / "01", values), tmp_path / "store", dtype="float32")
    run = store["sub-01"]
    raw = run.read_brain(0, 40)
    np.testing.assert_allclose(raw * std, intensities[:, run.mask], rtol=2e-3)
    percent = 100 * (intensities[:, run.mask] / intensities[:, run.mask].mean(0) - 1)
    kept = [np.corrcoef(a, b)[0, 1] for a, b in zip(run.read_brain(0, 40, "percent").T, percent.T, strict=True)]
    assert min(kept) > 0.999
    assert (run.mean > 0).all()


def test_runs_of_a_folder(img):
    study = published_runs(img)
    assert [(item["subject"], item["session"], item["task"]) for item in study] == [
        ("100307", "", ""),
        ("100408", "", ""),
        ("03", "1", "rest"),
    ]
    assert [item["subject"] for item in published_runs(img / "100408")] == ["100408"]
    with pytest.raises(FileNotFoundError, match="metadata holds no published run"):
        published_runs(img.parent / "metadata")
    with pytest.raises(FileNotFoundError, match=r"data\.pt is no folder"):
        published_runs(img / "100307" / "data.pt")


def test_labels_and_keys(img, tmp_path):
    store = converted(img, tmp_path / "store")
    assert list(store) == ["sub-03_ses-1_task-rest", "sub-100307", "sub-100408"]
    other = tmp_path / "labels.csv"
    other.write_text("subject,age\n100307,24\n100408,31\n03,\n")
    store = converted(published_runs(img).join(other)[:2], tmp_path / "labelled")
    assert {item["subject"]: item["age"] for item in store.run_items()} == {"100307": 24, "100408": 31}
    pattern = Study.from_pattern(img, r"{subject:\d+}/data.pt")
    with_tr = [{**item, "tr": 0.72, "task": "REST1"} for item in pattern]
    store = converted(with_tr, tmp_path / "named")
    assert list(store) == ["sub-100307_task-REST1", "sub-100408_task-REST1"]
    assert {run.tr for run in store.values()} == {0.72}
    assert "tr" not in store.records["sub-100307_task-REST1"].labels


def test_two_folders_of_one_name(img, tmp_path):
    shutil.copytree(img / "100307", img / "other" / "100307")
    with pytest.raises(ValueError, match="sub-100307"):
        converted(img, tmp_path / "store")


def test_failures_are_told_and_the_others_are_done(img, tmp_path, capfd):
    file = img / "100307" / "data.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (img / "site" / "sub-03_ses-1_task-rest" / "frame_4.pt").unlink()
    with pytest.raises(PrepareError) as error:
        converted(img, tmp_path / "store")
    text = str(error.value)
    assert f"{file} is damaged" in text
    assert "no frame_4.pt" in text
    assert list(error.value.store) == ["sub-100408"]
    assert not (tmp_path / "store" / "runs" / "sub-100307").exists()
    with pytest.raises(PrepareError) as error:
        converted(img, tmp_path / "strict", strict=True)
    assert len(error.value.failures) == 1
    assert not list(error.value.store)


def test_again(img, tmp_path, monkeypatch):
    store = converted(img, tmp_path / "store")
    before = dict(store.records)
    write_frames_and_step(img / "100610", codes(5), STEP)
    # the same bytes at another time
    file = img / "100307" / "data.pt"
    file.write_bytes(file.read_bytes())
    store = converted(img, tmp_path / "store")
    assert {key: record for key, record in store.records.items() if key in before} == before
    assert "sub-100610" in store
    write_frames_and_step(img / "100610", codes(6), STEP)
    for options, why in (
        ({}, r"1 run prepared from files that have changed since, or are gone \(sub-100610\)"),
        ({"dtype": "int16"}, "4 runs prepared in another way"),
        ({"tr": 0.72}, "4 runs prepared in another way"),
    ):
        with pytest.raises(ValueError, match=rf"{why}.*pass overwrite=True"):
            converted(img, tmp_path / "store", **options)
    with pytest.raises(ValueError, match="4 runs prepared in another way"):
        convert_published(img, tmp_path / "store", affine=2 * AFFINE, progress=False)
    store = converted(img, tmp_path / "store", overwrite=True)
    assert {key: record for key, record in store.records.items() if key in before} == before
    loaded = load_published(img / "100610", affine=AFFINE).as_tensor()
    torch.testing.assert_close(as_loaded(store["sub-100610"].read(normalize="global")), loaded, rtol=0, atol=STEP / 2)


def test_new_labels(img, tmp_path):
    items = [{**item, "age": 24.0, "score": float("nan")} for item in published_runs(img)]
    before = dict(converted(items, tmp_path / "store").records)
    assert dict(converted(items, tmp_path / "store").records).keys() == before.keys()
    assert [r.attempt for r in converted(items, tmp_path / "store").records.values()] == [
        record.attempt for record in before.values()
    ]
    items[0]["age"] = 25.0
    after = converted(items, tmp_path / "store").records
    assert after["sub-100307"].labels["age"] == 25.0
    assert after["sub-100307"].arrays == before["sub-100307"].arrays
    assert after["sub-100408"].attempt == before["sub-100408"].attempt


def test_a_conversion_that_was_killed_goes_on_to_the_same_store(img, tmp_path):
    undisturbed = converted(img, tmp_path / "once")
    converted(published_runs(img)[1:2], tmp_path / "store")
    store = converted(img, tmp_path / "store", workers=2)
    assert list(store) == list(undisturbed)
    for key, run in store.items():
        other = undisturbed[key]
        assert run.record.checksums == other.record.checksums
        assert run.record.sources == other.record.sources
        assert {**run.attributes, "times": None} == {**other.attributes, "times": None}


def test_a_file_that_changes_while_it_is_read(img, tmp_path):
    store, folder = Store(tmp_path / "store", create=True), img / "100307"

    def meddle(stage, share):
        if stage == "reading":
            os.utime(folder / "data.pt", (1, 1))

    options = {"key": "sub-01", "tr": 0.8, "affine": AFFINE, "progress": meddle}
    with pytest.raises(OSError, match=r"data\.pt has changed while it was read"):
        convert_run({"image": str(folder)}, store.place, PRESETS["published"], **options)
    store.refresh()
    assert not store
    assert not (tmp_path / "store" / "runs").exists()


def test_a_run_of_one_value_is_refused(tmp_path):
    write_frames_and_step(tmp_path / "img" / "01", torch.zeros(3, 2, 2, 2, dtype=torch.int8), STEP)
    with pytest.raises(PrepareError, match="one value in all voxels"):
        converted(tmp_path / "img", tmp_path / "store")


def test_without_background_all_voxels_are_kept(tmp_path, caplog):
    frames = codes()[:, 1:]
    with caplog.at_level(logging.WARNING, "nstorm.data"):
        store = converted(write_frames_and_step(tmp_path / "01", frames, STEP), tmp_path / "store")
    assert str(tmp_path / "01") in caplog.text
    run = store["sub-01"]
    assert run.mask.all()
    loaded = frames.float() * STEP
    torch.testing.assert_close(as_loaded(run.read(normalize="global")), loaded, rtol=0, atol=STEP / 10)


def test_values_that_are_no_z_scores_become_so(tmp_path):
    scaled = (codes().float() + 100) / 200
    assert scaled.min() == 0
    store = converted(write_each_frame(tmp_path / "01", scaled), tmp_path / "store", dtype="float32")
    run = store["sub-01"]
    np.testing.assert_array_equal(run.read_brain(0, 25), scaled.half().float()[:, run.mask].numpy())
    scores = run.read_brain(0, 25, "global")
    assert scores.mean() == pytest.approx(0, abs=1e-5)
    assert scores.std() == pytest.approx(1, abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 45),
    st.tuples(st.integers(2, 5), st.integers(1, 5), st.integers(1, 4)),
    st.integers(0, 2**16),
    st.sampled_from(["int8", "int16", "float16", "float32"]),
)
def test_any_codes(tmp_path_factory, num_frames, shape, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    spread = int(torch.randint(1, 250, (), generator=generator))
    frames = torch.randint(0, spread + 1, (num_frames, *shape), generator=generator) - 127
    # background, and a voxel that is none
    frames[:, 0, 0, 0], frames[0, -1, -1, -1] = -127, 100
    tmp_path = tmp_path_factory.mktemp("runs")
    folder = write_frames_and_step(tmp_path / "01", frames.to(torch.int8), STEP)
    run = converted(folder, tmp_path / "store", dtype=dtype)["sub-01"]
    read = as_loaded(run.read(normalize="global"))
    torch.testing.assert_close(read, load_published(folder, affine=AFFINE).as_tensor(), rtol=0, atol=STEP / 2)


def test_parts(img, tmp_path):
    for index in (1, 2):
        store = converted(img, tmp_path / "store", part=(index, 2))
    assert list(store) == ["sub-03_ses-1_task-rest", "sub-100307", "sub-100408"]
    assert list(converted(img, tmp_path / "other", part=(2, 2))) == ["sub-100408"]


def test_bad_arguments(img, tmp_path):
    with pytest.raises(ValueError, match=r"tr is -1\.0"):
        converted(img, tmp_path / "store", tr=-1.0)
    with pytest.raises(ValueError, match="workers is 0"):
        converted(img, tmp_path / "store", workers=0)
    with pytest.raises(ValueError, match=r"part is \(3, 2\)"):
        converted(img, tmp_path / "store", part=(3, 2))
    with pytest.raises(PrepareError, match="pass affine="):
        convert_published(img, tmp_path / "store", progress=False)
    assert not list(Store(tmp_path / "store"))
