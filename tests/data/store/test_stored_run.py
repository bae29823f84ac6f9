import pickle

import numpy as np
import pytest
import torch

from nstorm.data import crop_or_pad, percent_signal_change, voxels_that_vary, zscore_global, zscore_voxels
from nstorm.data.store.place import Place
from nstorm.data.store.store import Store
from nstorm.data.store.stored_run import StoredRun
from nstorm.data.store.write import write_run
from tests.data.store.runs import AFFINE, SHAPE, fabricated, haxby, rest

DTYPES = ["int8", "int16", "float16", "float32"]


def written(place, values, mask, **changes):
    record = write_run(place, "sub-1", values, mask, **{"affine": AFFINE, "tr": 1.5, **changes})
    return StoredRun(place, record)


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    path = tmp_path / "store" if request.param == "local" else f"memory://{tmp_path.name}"
    return Store(path, create=True).place


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("one_file", [False, True])
@pytest.mark.parametrize("num_frames", [1, 20, 41])
def test_there_and_back(place, dtype, one_file, num_frames):
    values, mask = fabricated(num_frames)
    run = written(place, values, mask, dtype=dtype, one_file=one_file, start_time=3.0, space_code=4)
    assert (run.num_frames, run.tr, run.record.dtype) == (num_frames, 1.5, dtype)
    assert np.array_equal(run.mask, mask)
    assert np.array_equal(run.places, np.flatnonzero(mask))
    step = run.read_brain(0, num_frames) - values
    assert np.abs(step).max() <= {"int8": 0.5, "int16": 0.01, "float16": 0.05, "float32": 0}[dtype]

    start, stop = num_frames // 3, num_frames // 3 + 1 + num_frames // 2
    clip = run.read(start, stop)
    assert clip.shape == (1, *SHAPE, stop - start)
    assert clip.dtype == torch.float32
    assert torch.equal(clip.affine, torch.tensor(AFFINE))
    assert clip.meta["tr"] == 1.5
    assert clip.meta["start_frame"] == start
    assert clip.meta["start_time"] == 3.0 + 1.5 * start
    assert clip.meta["space_code"] == 4
    assert clip.meta["filename_or_obj"] == run.name
    dense = clip.as_tensor().numpy()[0]
    assert np.array_equal(dense[mask].T, run.read_brain(start, stop))
    assert not dense[~mask].any()


@pytest.mark.parametrize(
    ("recording", "dtype"),
    [(rest, "int8"), *((haxby, dtype) for dtype in DTYPES)],
    ids=["rest-int8", *(f"haxby-{dtype}" for dtype in DTYPES)],
)
def test_normalised_as_by_the_functions(tmp_path, recording, dtype):
    values, mask, bold = recording()
    # a part, for the time it takes
    values, bold = values[:60], bold[:60]
    run = written(Place(tmp_path), values, mask, dtype=dtype)
    inside = torch.from_numpy(mask)
    exact = bold.as_tensor() * inside
    scale = run.array("voxels")[0]
    step = {"int8": scale, "int16": scale, "float16": scale / 1024, "float32": 0 * scale}[dtype]
    varies = run.std > 0
    for normalize, expected, unit in [
        ("zscore", zscore_voxels(exact, inside), run.std),
        ("percent", percent_signal_change(exact, inside), np.abs(run.mean) / 100),
        ("global", zscore_global(exact, inside, outside="min"), np.full(len(scale), values.std())),
    ]:
        clip = run.read(normalize=normalize)[0].as_tensor()
        error = (clip.movedim(-1, 0) - expected).abs().numpy()
        assert error[:, ~mask].max() < 1e-5
        assert (error[:, mask][:, varies] <= step[varies] / 2 / unit[varies] * 1.01 + 1e-3).all()
        assert np.array_equal(run.read_brain(normalize=normalize), clip.numpy()[mask].T)


def test_zscores_of_the_whole_run(tmp_path):
    values, mask, _ = rest()
    scores = written(Place(tmp_path), values, mask).read_brain(normalize="zscore").astype(np.float64)
    assert np.abs(scores.mean(0)).max() < 1e-2
    assert np.abs(scores.std(0) - 1).max() < 1e-2


@pytest.mark.parametrize("normalize", ["none", "zscore", "percent", "global"])
def test_far_frames_are_normalised_like_others(place, normalize):
    values, mask = fabricated(60)
    values[:2] *= [[2.0], [1.4]]
    run = written(place, values, mask)
    assert run.record.far == (0, 1)
    reference = written(place, values, mask, dtype="float32")
    for start, stop in [(0, 60), (1, 9), (2, 30), (0, 1)]:
        found = run.read(start, stop, normalize).as_tensor().numpy()
        expected = reference.read(start, stop, normalize).as_tensor().numpy()
        half_a_step = {"none": 0.25, "zscore": 0.02, "percent": 0.03, "global": 0.02}[normalize]
        assert np.allclose(found, expected, rtol=1e-3, atol=half_a_step)
        assert np.array_equal(found[0][mask].T, run.read_brain(start, stop, normalize))


def test_constant_voxels_are_zero(place):
    values, mask = fabricated(40)
    values[:, 3], values[:, 5], values[:, 8] = 1000.1, 0, -7
    run = written(place, values, mask)
    for normalize in ("zscore", "percent"):
        scores = run.read_brain(normalize=normalize)
        assert not scores[:, [3, 5, 8]].any()
        assert np.isfinite(scores).all()
    assert run.std[[3, 5, 8]].tolist() == [0, 0, 0]
    assert run.read_brain()[:, [3, 5, 8]].tolist() == values[:, [3, 5, 8]].tolist()


def test_percent_of_a_negative_baseline(place):
    values, mask = fabricated(40)
    bold = torch.zeros(40, *SHAPE)
    bold[:, torch.from_numpy(mask)] = torch.from_numpy(-values)
    expected = percent_signal_change(bold, voxels_that_vary(bold))[:, torch.from_numpy(mask)].numpy()
    assert np.abs(written(place, -values, mask).read_brain(normalize="percent") - expected).max() < 0.05


def test_a_run_of_one_value(place):
    run = written(place, np.full((5, 37), 3.0, np.float32), fabricated()[1])
    assert not run.read_brain(normalize="zscore").any()
    with pytest.raises(ValueError, match=r"sub-1/.* has one value throughout the brain, so that normalize cannot be"):
        run.read(normalize="global")


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_of_any_size_are_normalised(place, dtype):
    mask = np.ones((1, 1, 4), bool)
    course = np.sin(np.arange(30.0))[:, None]
    values = (course * [1e37, 1e-37, 1e-3, 1] + [0, 0, 0, 1e6]).astype(np.float32)
    scores = written(place, values, mask, dtype=dtype).read_brain(normalize="zscore")
    assert np.abs(scores - (course - course.mean()) / course.std()).max() < 0.15


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 5), (6, 5), (0, 51), (50, 51)])
def test_frames_that_are_not_there(place, start, stop):
    run = written(place, *fabricated())
    for read in (run.read, run.read_brain, run.codes):
        with pytest.raises(ValueError, match=rf"frames {start} to {stop} of .*sub-1/.* are asked for, but it has 50"):
            read(start, stop)


def test_what_is_kept_of_a_run(place):
    extras = {"series": np.array([[np.nan, 1], [2, 3]], np.float32), "carpet": np.zeros((3, 50), np.uint8)}
    run = written(place, *fabricated(), extras=extras, attributes={"events": [{"onset": 1.0}], "times": {"a": "b"}})
    assert run.attributes["events"] == [{"onset": 1.0}]
    for name, extra in extras.items():
        assert np.array_equal(run.array(name), extra, equal_nan=name == "series")
        assert run.array(name).dtype == extra.dtype
    with pytest.raises(KeyError, match=r"has no 'motion'; it has bold, voxels, mask, series, carpet"):
        run.array("motion")


def test_it_is_sent_without_what_it_has_opened(place):
    run = written(place, *fabricated())
    before = len(pickle.dumps(run))
    expected = run.read(3, 9, "zscore")
    again = pickle.dumps(run)
    assert len(again) == before
    assert torch.equal(pickle.loads(again).read(3, 9, "zscore").as_tensor(), expected.as_tensor())


def test_results_belong_to_who_asks(place):
    run = written(place, *fabricated())
    clip = run.read(0, 5)
    clip.fill_(-1)
    clip.affine[0, 0] = 99
    clip.meta["tr"] = 99
    again = run.read(0, 5)
    assert again.as_tensor().max() > 900
    assert again.affine[0, 0] == AFFINE[0, 0]
    assert again.meta["tr"] == 1.5


@pytest.mark.parametrize("size", [8, 3, (2, 7, 5)])
@pytest.mark.parametrize("normalize", ["zscore", "global"])
def test_a_size_is_that_of_crop_or_pad(place, normalize, size):
    values, mask = fabricated(30)
    values[:2] *= [[2.0], [1.4]]
    run = written(place, values, mask)
    whole = run.read(0, 12, normalize)
    expected = crop_or_pad(whole, size, value=run.background(normalize))
    found = run.read(0, 12, normalize, size=size)
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    assert torch.equal(found.affine, expected.affine)
