"""What MONAI expects of every transform, asked of all that nstorm exports."""

import inspect
import pickle
from copy import deepcopy

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform, Transform

from nstorm.data import schaefer_atlas, time_axis, time_first
from nstorm.data import transforms as package
from nstorm.data.space.grid import mni152_grid

EXPORTED = {name: getattr(package, name) for name in package.__all__}
# these have no array form, or stand around other transforms
WITHOUT_PAIR = {"Compose", "OnBatch", "LoadConfoundsd", "LoadConfoundsD", "LoadConfoundsDict"}
DICTIONARY = {name: form for name, form in EXPORTED.items() if issubclass(form, MapTransform)}
KEEP = torch.tensor([True] * 9 + [False] + [True] * 2)
# arguments, and those of a call, for every transform of one image that draws nothing
FIXED = {
    "ApplyMask": ({}, {"mask": torch.ones(7, 6, 5, dtype=torch.bool)}),
    "Clean": ({"detrend": 2}, {}),
    "CropOrPad": ({"size": (5, 8, 3)}, {}),
    "CropToMask": ({}, {"mask": torch.ones(7, 6, 5, dtype=torch.bool)}),
    "GlobalZScore": ({}, {}),
    "PercentSignalChange": ({}, {}),
    "RemoveDummyScans": ({"num_frames": 2}, {}),
    "Reorient": ({"axcodes": "PSR"}, {}),
    "ResampleSpace": ({"target": 12.0}, {}),
    "ResampleTime": ({"tr": 1.3}, {}),
    "Scrub": ({}, {"keep": KEEP}),
    "ZScoreVoxels": ({}, {}),
}
OTHERWISE_TESTED = {
    "BrainMask",  # needs a brain
    "Connectivity",
    "LoadBOLD",
    "LoadMask",
    "ParcelTimeSeries",
    "PublishedPreprocessing",
    "SaveBOLD",
    "TimeAsChannel",
    "TimeToFirst",
    "TimeToLast",
    "Views",
}


def make_run():
    values = 100 + 10 * torch.rand(12, 7, 6, 5, generator=torch.Generator().manual_seed(0))
    affine = torch.tensor([[-9.0, 0, 0, 20], [0, 10, 0, -30], [0, 0, 11, 5], [0, 0, 0, 1]], dtype=torch.float64)
    meta = {"tr": 2.0, "start_frame": 3, "start_time": 6.0, "site": "here"}
    return MetaTensor(values, affine=affine, meta=meta)


def test_every_array_form_has_a_dictionary_form_and_the_other_way_round():
    pairs = {name for name in EXPORTED if name not in WITHOUT_PAIR}
    array = {name for name in pairs if name not in DICTIONARY}
    assert {name[:-1] for name in pairs & DICTIONARY.keys()} == array
    assert {name for name in array if not name.startswith("Rand")} == FIXED.keys() | OTHERWISE_TESTED


@pytest.mark.parametrize("name", DICTIONARY)
def test_monais_other_names(name):
    stem = name[:-1]
    assert getattr(package, stem + "D") is getattr(package, stem + "Dict") is DICTIONARY[name]
    assert next(iter(inspect.signature(DICTIONARY[name]).parameters)) == "keys"


@pytest.mark.parametrize("name", EXPORTED)
def test_is_a_documented_transform(name):
    assert issubclass(EXPORTED[name], Transform)
    assert inspect.getdoc(EXPORTED[name])


@pytest.mark.parametrize("name", FIXED)
def test_both_layouts_alike_and_the_input_left_alone(name):
    arguments, call = FIXED[name]
    transform = pickle.loads(pickle.dumps(EXPORTED[name](**arguments)))
    run = make_run()
    values, meta = run.as_tensor().clone(), deepcopy(run.meta)
    first = transform(run, **call)
    last = transform(MetaTensor(run.as_tensor().movedim(0, -1)[None], meta=deepcopy(run.meta)), **call)
    assert (time_axis(first), time_axis(last)) == (0, 4)
    torch.testing.assert_close(time_first(last).as_tensor(), first.as_tensor(), rtol=1e-5, atol=1e-5)
    assert torch.equal(first.affine, last.affine)
    assert first.affine.dtype == torch.float64
    assert first.meta["site"] == last.meta["site"] == "here"
    assert first.meta["start_time"] == last.meta["start_time"]
    first.zero_()
    first.affine[0, 0] = 99.0
    assert torch.equal(run.as_tensor(), values)
    assert torch.equal(run.affine, meta["affine"])
    assert {**run.meta, "affine": None} == {**meta, "affine": None}


@pytest.mark.parametrize("name", FIXED)
def test_dictionary_form_does_what_the_array_form_does(name):
    arguments, call = FIXED[name]
    item = {"image": make_run(), "other": make_run() + 1, "mask": torch.ones(7, 6, 5, dtype=torch.bool), "keep": KEEP}
    if "mask" in call:
        arguments = {**arguments, "mask_key": "mask"}
    if "keep" in call:
        arguments = {**arguments, "keep_key": "keep"}
    form = pickle.loads(
        pickle.dumps(DICTIONARY[name + "d"](("image", "other", "absent"), allow_missing_keys=True, **arguments))
    )
    result = form(item)
    for key in ("image", "other"):
        expected = EXPORTED[name](**FIXED[name][0])(item[key], **call)
        assert torch.equal(result[key].as_tensor(), expected.as_tensor())
    assert result.keys() == item.keys()
    assert item["image"].shape == (12, 7, 6, 5)
    with pytest.raises(KeyError, match="absent"):
        DICTIONARY[name + "d"]("absent", **arguments)(item)


@pytest.mark.parametrize("name", FIXED)
def test_float64_stays(name):
    arguments, call = FIXED[name]
    run = make_run()
    double = EXPORTED[name](**arguments)(run.double(), **call)
    single = EXPORTED[name](**arguments)(run, **call)
    assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(single.as_tensor().double(), double.as_tensor(), rtol=1e-3, atol=1e-3)


def test_parcels_in_a_pipeline():
    grid = mni152_grid(8.0)
    values = torch.rand(12, *grid.shape, generator=torch.Generator().manual_seed(0))
    run = MetaTensor(values, affine=grid.affine, meta={"tr": 2.0})
    series = package.ParcelTimeSeriesd("image", schaefer_atlas(100), missing="nan")({"image": run})["image"]
    assert series.shape == (100, 12)
    assert series.isnan().all(dim=1).sum() < 10
