import importlib
import math

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from nilearn.image import resample_img

from nstorm.data import load_bold, rest_run, time_first, time_last
from nstorm.data.space.along_axes import AlongAxes
from nstorm.data.space.at_places import AtPlaces
from nstorm.data.space.grid import Grid, grid_of, mni152_grid
from nstorm.data.space.orientation import reorient
from nstorm.data.space.resample_space import resample_space
from nstorm.data.transforms.spatial import ResampleSpace

# the function of the same name may hide it
module = importlib.import_module("nstorm.data.space.resample_space")


def oblique(rng, spacing=(2.0, 3.0, 4.0), origin=20.0):
    """A rotation, a little shear, perhaps a reflection, and voxels that are not cubes."""
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = (rotation + rng.normal(scale=0.05, size=(3, 3))) @ np.diag(spacing)
    affine[:3, 3] = rng.normal(scale=origin, size=3)
    return affine


def run_of(values, affine, **meta):
    return MetaTensor(torch.as_tensor(values), affine=torch.as_tensor(affine), meta={"tr": 0.8, **meta})


def positions(grid):
    voxels = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in grid.shape)).view(*grid.shape, 3)
    return voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def inside(grid, source, margin=0.0):
    """Voxels of a grid that lie between the outer voxels of another."""
    back = torch.linalg.inv(source.affine)
    places = positions(grid) @ back[:3, :3].T + back[:3, 3]
    return ((places >= margin) & (places <= torch.tensor(source.shape) - 1 - margin)).all(-1)


def test_grid_of_another_image(tmp_path):
    rng = np.random.default_rng(0)
    bold = run_of(rng.normal(size=(3, 9, 8, 7)), oblique(rng, origin=1.0))
    affine = oblique(rng, spacing=(3.0, 3.0, 3.0), origin=1.0)
    image = nibabel.Nifti1Image(np.zeros((5, 6, 4, 2), np.float32), affine)
    nibabel.save(image, tmp_path / "other.nii")
    expected = resample_space(bold, Grid((5, 6, 4), nibabel.load(tmp_path / "other.nii").affine))
    for target in (tmp_path / "other.nii", image, run_of(np.zeros((2, 5, 6, 4)), affine)):
        transform = ResampleSpace(target)
        assert isinstance(transform.target, Grid)
        for result in (resample_space(bold, target), transform(bold)):
            assert grid_of(result) == grid_of(expected)
            torch.testing.assert_close(result.as_tensor(), expected.as_tensor(), rtol=0, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.tuples(*[st.integers(4, 13)] * 3))
def test_agrees_with_nilearn_on_any_affine(seed, shape):
    rng = np.random.default_rng(seed)
    source = Grid(shape, oblique(rng))
    middle = positions(source).reshape(-1, 3).mean(0).numpy()
    affine = oblique(rng, spacing=(2.5, 1.5, 3.0))
    affine[:3, 3] = middle - affine[:3, :3] @ np.array([3, 4, 3.5])
    target = Grid((7, 9, 8), affine)
    values = rng.normal(size=(*shape, 3)) + 5
    expected = resample_img(
        nibabel.Nifti1Image(values, source.affine.numpy()),
        target_affine=affine,
        target_shape=target.shape,
        interpolation="linear",
        copy_header=True,
        force_resample=True,
    ).get_fdata()
    run = run_of(np.moveaxis(values, -1, 0).copy(), source.affine)
    where = inside(target, source, 1e-6)
    for bold, tolerance in ((run, 1e-9), (run.float(), 1e-4)):
        result = resample_space(bold, target, antialias=False)
        assert result.dtype == bold.dtype
        assert grid_of(result) == target
        torch.testing.assert_close(
            result.as_tensor()[:, where],
            torch.as_tensor(expected)[where].T.to(bold.dtype),
            rtol=tolerance,
            atol=tolerance,
        )


@pytest.mark.parametrize("antialias", [False, True])
def test_a_field_that_is_linear_in_mm_stays_what_it_is(antialias):
    rng = np.random.default_rng(3)
    source = Grid((40, 30, 35), oblique(rng, (1.0, 1.2, 0.9)))
    target = source.with_spacing((2.0, 2.5, 2.2))
    slope = torch.tensor([0.3, -0.2, 0.7], dtype=torch.float64)
    bold = run_of((positions(source) @ slope)[None], source.affine)
    result = resample_space(bold, target, antialias=antialias)
    where = inside(target, source, 5.0)
    assert where.sum() > 500
    torch.testing.assert_close(result.as_tensor()[0, where], (positions(target) @ slope)[where], rtol=0, atol=1e-6)


def test_smoothing_before_larger_voxels_keeps_stripes_from_aliasing():
    # stripes of 2.2 voxels show up as others when every third voxel is read
    source = Grid((60, 8, 8), np.eye(4))
    stripes = torch.cos(2 * math.pi * positions(source)[..., 0] / 2.2)[None]
    bold = run_of(stripes, source.affine)
    middle = slice(4, -4)
    aliased = resample_space(bold, (3.0, 1.0, 1.0), antialias=False)[0, middle]
    smooth = resample_space(bold, (3.0, 1.0, 1.0))[0, middle]
    assert aliased.std() > 0.5
    assert smooth.std() < 0.05 * aliased.std()
    # stripes of 30 voxels stay
    bold = run_of(torch.cos(2 * math.pi * positions(source)[..., 0] / 30)[None], source.affine)
    kept = resample_space(bold, (3.0, 1.0, 1.0))[0, middle].std() / bold[0].std()
    assert 0.9 < kept < 1.02


def test_constants_stay_exact_and_end_where_the_field_of_view_does():
    source = Grid((7, 9, 8), oblique(np.random.default_rng(5)))
    bold = run_of(torch.full((2, 7, 9, 8), 3.0), source.affine)
    for spacing in (1.3, 7.0):
        values = resample_space(bold, spacing).as_tensor()
        torch.testing.assert_close(values, torch.full_like(values, 3.0))
    wider = source.affine.clone()
    wider[:3, 3] -= wider[:3, :3] @ torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64)
    grid = Grid((11, 13, 12), wider)
    for padding, outside in ((0.0, 0.0), (-7.0, -7.0), ("border", 3.0)):
        result = resample_space(bold, grid, padding=padding)
        torch.testing.assert_close(result.as_tensor()[:, 2:-2, 2:-2, 2:-2], bold.as_tensor())
        result[:, 2:-2, 2:-2, 2:-2] = outside
        assert (result == outside).all()


def test_axes_of_one_voxel():
    bold = run_of(torch.rand(3, 6, 5, 1), np.diag([3.1, 3.75, 3.75, 1.0]))
    result = resample_space(bold, (3.1, 3.75, 1.25))
    assert result.shape == (3, 6, 5, 3)
    for k in range(3):
        torch.testing.assert_close(result[..., k], bold[..., 0])


def test_both_layouts_all_frames_in_slabs(monkeypatch):
    rng = np.random.default_rng(1)
    bold = run_of(torch.rand(11, 9, 7, 8), oblique(rng), subject="7", start_frame=4)
    target = grid_of(bold).with_spacing(3.3)
    whole = resample_space(bold, target)
    monkeypatch.setattr(module, "_SLAB_BYTES", 5000)
    before, affine = bold.clone(), bold.affine.clone()
    torch.testing.assert_close(resample_space(bold, target), whole)
    clip = resample_space(time_last(bold), target)
    assert clip.shape == (1, *target.shape, 11)
    torch.testing.assert_close(time_first(clip).as_tensor(), whole.as_tensor())
    assert clip.meta["tr"] == 0.8
    assert (clip.meta["subject"], clip.meta["start_frame"]) == ("7", 4)
    assert torch.equal(bold, before)
    assert torch.equal(bold.affine, affine)


@pytest.mark.parametrize(("reader", "tilt"), [(AlongAxes, 0.0), (AtPlaces, 0.1)])
def test_slabs_are_small_where_there_are_many_new_voxels(monkeypatch, reader, tilt):
    affine = np.eye(4)
    affine[0, 1] = tilt
    bold = run_of(torch.rand(11, 9, 7, 8), np.eye(4))
    sizes, read = [], reader.__call__

    def watched(self, clip):
        values = read(self, clip)
        sizes.append(values.numel() * values.element_size())
        return values

    monkeypatch.setattr(reader, "__call__", watched)
    monkeypatch.setattr(module, "_SLAB_BYTES", 150_000)
    affine[:3, :3] /= 2
    assert resample_space(bold, Grid((18, 14, 16), affine)).shape == (11, 18, 14, 16)
    assert len(sizes) == 2
    assert max(sizes) < 150_000


@pytest.mark.parametrize("dtype", [torch.bool, torch.int16, torch.uint8])
def test_labels_are_taken_from_the_nearest_voxel(dtype):
    rng = np.random.default_rng(2)
    source = Grid((9, 8, 7), oblique(rng))
    labels = torch.randint(0, 2 if dtype is torch.bool else 100, (1, *source.shape)).to(dtype)
    target = source.with_spacing(1.7)
    result = resample_space(run_of(labels, source.affine), target)
    assert result.dtype == dtype
    expected = resample_img(
        nibabel.Nifti1Image(labels[0].numpy().astype(np.int16), source.affine.numpy()),
        target_affine=target.affine.numpy(),
        target_shape=target.shape,
        interpolation="nearest",
        copy_header=True,
        force_resample=True,
    ).get_fdata()
    # nilearn ends half a voxel earlier
    where = inside(target, source)
    assert torch.equal(result[0].as_tensor()[where].double(), torch.as_tensor(expected)[where])


@pytest.mark.parametrize("axcodes", ["LAS", "RPI", "SAL", "PIR"])
def test_however_the_image_is_stored_the_result_is_the_same(axcodes):
    rng = np.random.default_rng(4)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-9, -11, -7]
    # every voxel of the target lies half-way between those of the image
    target = grid_of(run_of(torch.zeros(1, 10, 12, 8), affine)).with_spacing(4.0)
    labels = run_of(torch.from_numpy(rng.integers(0, 100, (1, 10, 12, 8))), affine)
    expected = labels[:, 1::2, 1::2, 1::2].as_tensor()
    assert torch.equal(resample_space(labels, target).as_tensor(), expected)
    assert torch.equal(resample_space(reorient(labels, axcodes), target).as_tensor(), expected)
    bold = run_of(torch.from_numpy(rng.normal(size=(3, 10, 12, 8))), affine)
    torch.testing.assert_close(resample_space(reorient(bold, axcodes), target), resample_space(bold, target))


def test_the_same_grid_gives_the_same_values():
    bold = run_of(torch.rand(2, 5, 6, 7), oblique(np.random.default_rng(0)))
    result = resample_space(bold, grid_of(bold))
    torch.testing.assert_close(result.as_tensor(), bold.as_tensor(), rtol=0, atol=1e-5)
    assert result.data_ptr() != bold.data_ptr()


def test_half_precision_becomes_float32():
    bold = run_of(torch.rand(2, 5, 6, 7), oblique(np.random.default_rng(0)))
    result = resample_space(bold.half(), 2.0)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, resample_space(bold, 2.0), rtol=0, atol=2e-3)


def test_real_run_to_2_mm_and_back():
    bold = load_bold(rest_run().bold)[:2]
    back = resample_space(resample_space(bold, mni152_grid(2.0)), grid_of(bold), antialias=False)
    # the 2 mm grid ends earlier
    where = inside(grid_of(bold), mni152_grid(2.0))
    a, b = back.as_tensor()[:, where].double(), bold.as_tensor()[:, where].double()
    assert torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1] > 0.99


def test_what_cannot_be_resampled():
    bold = run_of(torch.rand(2, 5, 6, 7), np.eye(4))
    far = np.eye(4)
    far[0, 3] = 500
    with pytest.raises(
        ValueError, match=r"the target \(x from 499\.5 to 503\.5 mm.* outside .* image \(x from -0\.5 to 4\.5 mm"
    ):
        resample_space(bold, Grid((4, 4, 4), far))
    with pytest.raises(ValueError, match="plain tensor"):
        resample_space(bold.as_tensor(), 2.0)
    with pytest.raises(ValueError, match=r"bold has shape \(5, 6, 7\)"):
        resample_space(bold[0], 2.0)
    with pytest.raises(ValueError, match="mode is 'cubic'"):
        resample_space(bold, 2.0, mode="cubic")
    with pytest.raises(ValueError, match=r"spacing is -2\.0"):
        resample_space(bold, -2.0)
