"""A run in a store is what the functions for whole runs make of its files."""

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data import (
    brain_mask,
    clean,
    haxby_runs,
    load_bold,
    load_mask,
    mni152_grid,
    prepare_published,
    remove_dummy_scans,
    reorient,
    resample_space,
    resample_time,
    rest_run,
    run_item,
    save_bold,
    save_mask,
)
from nstorm.data.preparation.presets import PRESETS
from nstorm.data.preparation.recipe import Recipe
from nstorm.data.store.store import Store
from tests.conftest import load_golden
from tests.data.preparation.stores import prepared
from tests.data.test_same_brain import AFFINE, TR, rearranged, stored, turned, write

RECIPES = {
    "native": Recipe(),
    "LPI": Recipe(axcodes="LPI"),
    "own grid": Recipe(spacing=5.5),
    "MNI152": Recipe(grid="mni152", spacing=6.0, axcodes="LAS"),
    "time": Recipe(dummy_scans=3, detrend=2, high_pass=0.01, low_pass=0.2, tr=2.2),
    "all": Recipe(grid="mni152", spacing=7.0, dummy_scans=1, detrend=1, tr=0.9),
}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", create=True)


def in_whole(item, recipe, mask):
    """The same steps on the whole run in double precision."""
    bold = load_bold(item["image"], dtype=torch.float64)
    target = recipe.spacing
    if recipe.grid == "mni152":
        grid = mni152_grid(recipe.spacing)
        target = reorient(MetaTensor(torch.zeros(1, *grid.shape), affine=grid.affine), recipe.axcodes)
    images = [reorient(image, recipe.axcodes) for image in (bold, mask)]
    bold, mask = images if target is None else [resample_space(image, target) for image in images]
    if recipe.dummy_scans:
        bold = remove_dummy_scans(bold, recipe.dummy_scans)
    if recipe.detrend:
        bold = clean(bold, detrend=recipe.detrend, high_pass=recipe.high_pass, low_pass=recipe.low_pass, mask=mask)
    return (bold if recipe.tr is None else resample_time(bold, recipe.tr)), mask[0]


@pytest.fixture(scope="module")
def rest(tmp_path_factory):
    """The first frames of the rest run, in a number that blocks do not divide."""
    image = tmp_path_factory.mktemp("rest") / "sub-1_bold.nii"
    return run_item(save_bold(image, load_bold(rest_run().bold, frames=(0, 67))), mask=rest_run().mask)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_streamed_equals_whole(store, rest, recipe):
    item = rest
    expected, mask = in_whole(item, recipe, load_mask(item["mask"]))
    found = prepared(store, item, recipe.but(dtype="float32"))
    np.testing.assert_array_equal(found.mask, mask.numpy())
    np.testing.assert_allclose(found.read_brain(0, len(expected)), expected.numpy()[:, mask], rtol=2e-5, atol=0.02)
    assert found.num_frames == len(expected)
    assert found.tr == expected.meta["tr"]
    assert found.record.start_time == expected.meta["start_time"]
    np.testing.assert_allclose(found.record.affine, expected.affine, atol=1e-5)
    assert found.record.space_code == 4


def test_native_values_are_those_of_the_file(store, rest):
    found = prepared(store, rest, Recipe(dtype="float32"))
    bold = load_bold(rest["image"]).as_tensor() * load_mask(rest["mask"]).as_tensor()
    np.testing.assert_array_equal(found.read()[0].numpy(), np.moveaxis(bold.numpy(), 0, 3))


def test_a_slice_without_a_mask_keeps_the_brain(store):
    run = haxby_runs()[0]
    found = prepared(store, run_item(run.bold), Recipe(dtype="float32"))
    bold = reorient(load_bold(run.bold))
    mask = brain_mask(bold, opening=0)[0].numpy()
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_array_equal(found.read_brain(0, 121), bold.numpy()[:, mask])
    assert found.attributes["mask"] == "computed"


def test_a_brain_without_a_mask_is_that_of_brain_mask(store, rest):
    found = prepared(store, run_item(rest["image"]), PRESETS["4mm"])
    np.testing.assert_array_equal(found.mask, brain_mask(load_bold(rest["image"]))[0].numpy())


def test_negative_values_are_kept(store, tmp_path):
    values = torch.randn(30, 5, 7, 3, generator=torch.Generator().manual_seed(0))
    bold = MetaTensor(values, affine=torch.from_numpy(AFFINE), meta={"tr": 2.0})
    mask = save_mask(tmp_path / "mask.nii", MetaTensor(torch.ones(1, 5, 7, 3, dtype=torch.bool), affine=bold.affine))
    found = prepared(store, run_item(save_bold(tmp_path / "sub-1_bold.nii", bold), mask=mask), Recipe())
    apart = np.abs(found.read()[0].numpy() - np.moveaxis(values.numpy(), 0, 3))
    assert apart.max() < (values.max() - values.min()) / 254
    assert found.record.dtype == "int8"


@pytest.mark.parametrize("masked", [True, False])
def test_published_equals_prepare_published(store, tmp_path, masked):
    """Real frames, with what masked and unmasked images of fMRIPrep have: zeros for a while, and negative values."""
    run = rest_run()
    bold = load_bold(run.bold, frames=(0, 9))
    bold[:4, 20:24] = 0
    bold[:, 30, 30, 20:30] = -7.0
    path = save_bold(tmp_path / "sub-1_bold.nii", bold)
    mask = load_mask(run.mask)
    expected, step = prepare_published(load_bold(path), mask=mask if masked else None, quantize=True)
    item = run_item(path, mask=run.mask) if masked else run_item(path)
    for dtype in ("float32", "int8"):
        found = prepared(store, item, PRESETS["published"].but(dtype=dtype))
        values = found.read(normalize="global")
        apart = (values[0].movedim(-1, 0).as_tensor() - expected.as_tensor() * step).abs()
        mean, std = (found.attributes["global"][name] for name in ("mean", "std"))
        ours = 0 if dtype == "float32" else float(found.array("voxels")[0].max()) / 2 / std
        assert apart.max() <= step / 2 + ours + 1e-5
        assert found.tr == values.meta["tr"] == 0.8
        np.testing.assert_allclose(values.affine, expected.affine, atol=1e-6)
        raw = found.read(normalize="none")
        assert raw[0][torch.from_numpy(found.mask)].min() >= -1e-3
        assert mean > 100
    assert found.attributes["mask"] == ("file" if masked else "not zero")


@pytest.mark.parametrize("index", [0, 1])
def test_published_golden(store, tmp_path, index):
    golden = load_golden(f"preprocessing_{index}")
    spacing, tr = golden.config["voxel_mm"][0], golden.config["tr_s"]
    affine = torch.diag(torch.tensor([-spacing, spacing, spacing, 1.0], dtype=torch.float64))
    bold = MetaTensor(golden.tensors["bold"].movedim(-1, 0), affine=affine, meta={"tr": tr})
    path = save_bold(tmp_path / "sub-1_bold.nii", bold)
    scale = float(golden.tensors["scale"])
    expected = golden.tensors["frames_int8"] * scale
    found = prepared(store, run_item(path), PRESETS["published"].but(dtype="int16"))
    apart = (found.read(normalize="global")[0].movedim(-1, 0).as_tensor() - expected).abs()
    assert apart.max() <= 0.51 * scale


STORAGES = {
    "LAS": {"flips": (1, 0, 0)},
    "PSR": {"axes": (2, 0, 1)},
    "LPI, gzip": {"flips": (1, 1, 1), "ending": ".nii.gz"},
    "int16 with slope": {"dtype": "int16", "slope": (0.5, 40.0)},
    "big-endian": {"order": ">", "dtype": "float64"},
}
OBLIQUE = turned(17, (1, 2, -1)) @ AFFINE
IN_EVERY_STORAGE = [
    Recipe(spacing=4.0),
    Recipe(grid="mni152", spacing=4.5, tr=1.0),
    PRESETS["native"],
    PRESETS["published"],
]


@pytest.mark.parametrize("recipe", IN_EVERY_STORAGE, ids=str)
@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("masked", [True, False])
def test_storage_makes_no_difference(store, tmp_path, recipe, affine, masked):
    voxels = stored(affine=affine)
    brain = (voxels[..., 0] > 55).astype(np.float32)[..., None]
    reference = None
    for axes, flips, options in [
        ((0, 1, 2), (0, 0, 0), {}),
        *((s.pop("axes", (0, 1, 2)), s.pop("flips", (0, 0, 0)), s) for s in map(dict, STORAGES.values())),
    ]:
        options = {"order": "<", **options}
        image = tmp_path / f"sub-1_bold{options.pop('ending', '.nii')}"
        write(image, *rearranged(voxels, affine, axes, flips), **options)
        # the mask is stored in another way than the run
        mask = write(tmp_path / "mask.nii", *rearranged(brain, affine, axes[::-1], flips[::-1]))
        item = run_item(image, space="MNI152", **({"mask": mask} if masked else {}))
        found = prepared(store, item, recipe)
        values = found.read_brain(0, found.num_frames)
        if reference is None:
            reference = found, values
            assert found.record.num_voxels > 30
            assert found.tr == {None: TR, 1.0: 1.0}[recipe.tr] if not recipe.published else 0.8
            continue
        np.testing.assert_array_equal(found.mask, reference[0].mask)
        np.testing.assert_allclose(found.record.affine, reference[0].record.affine, atol=1e-4)
        # the sform of an oblique image is rounded in another way for each order of the axes
        rounding = 1e-6 if affine is OBLIQUE and recipe.grid == "mni152" else 0
        np.testing.assert_allclose(values, reference[1], rtol=rounding, atol=0)


def test_mask_on_another_grid(store, rest, tmp_path):
    mask = save_mask(tmp_path / "mask.nii.gz", resample_space(load_mask(rest["mask"]), mni152_grid(3.0)))
    found = prepared(store, run_item(rest["image"], mask=mask), Recipe())
    np.testing.assert_array_equal(found.mask, load_mask(mask, like=load_bold(rest["image"]))[0].numpy())


def test_voxels_beyond_the_field_of_view_are_not_in_the_brain(store, tmp_path):
    """Half a brain is put on the grid of a whole one, with the mask of a whole one."""
    run = rest_run()
    half = load_bold(run.bold, frames=(0, 25))[:, :, :, :24]
    item = run_item(save_bold(tmp_path / "sub-1_bold.nii", half), mask=run.mask)
    found = prepared(store, item, Recipe(grid="mni152", spacing=6.0))
    assert found.std.min() > 0
    inside = found.mask.nonzero()[2].max()
    assert mni152_grid(6.0).affine[2, 2] * inside + mni152_grid(6.0).affine[2, 3] <= 24 * 4 - 78
