import pickle

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor

from nstorm.data import haxby_runs, load_bold, rest_run
from nstorm.data.space.grid import Grid, grid_of, mni152_grid, same_grid

AFFINE = np.array([[-2.0, 0.1, 0, 30], [0, 3, 0.4, -20], [0.2, 0, 4, 5], [0, 0, 0, 1]])


def world(grid, voxel):
    return grid.affine.numpy()[:3, :3] @ np.asarray(voxel, dtype=float) + grid.affine.numpy()[:3, 3]


def test_grids_are_equal_within_a_thousandth_of_a_mm():
    grid = Grid((50, 60, 40), AFFINE)
    shifted = AFFINE.copy()
    shifted[0, 3] += 9e-4
    assert grid == Grid((50, 60, 40), shifted)
    assert hash(grid) == hash(Grid((50, 60, 40), shifted))
    shifted[0, 3] += 2e-4
    assert grid != Grid((50, 60, 40), shifted)
    assert grid != Grid((50, 60, 41), AFFINE)
    # a turn that shows at the far corner only
    turned = AFFINE.copy()
    turned[0, 1] += 1e-4
    assert grid != Grid((50, 60, 40), turned)
    assert grid != "a grid"


def test_grid_is_its_own_copy():
    affine = torch.as_tensor(AFFINE.copy())
    grid = pickle.loads(pickle.dumps(Grid((2, 3, 4), affine)))
    affine[0, 0] = 99
    assert grid == Grid((2, 3, 4), AFFINE)
    np.testing.assert_allclose(grid.spacing, nibabel.affines.voxel_sizes(AFFINE))


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((2, 3), AFFINE, r"shape is \(2, 3\), but a grid has three axes"),
        ((2, 0, 3), AFFINE, r"shape is \(2, 0, 3\)"),
        ((2, 3, 4), np.diag([2.0, 0, 2, 1]), "gives each voxel a place of its own"),
        ((2, 3, 4), np.full((4, 4), np.nan), "gives each voxel a place of its own"),
        ((2, 3, 4), np.eye(3), "has to be a 4x4 matrix"),
        ((2, 3, 4), 2 * np.eye(4), r"\(0, 0, 0, 1\) as its last row"),
    ],
)
def test_what_is_no_grid(shape, affine, message):
    with pytest.raises(ValueError, match=message):
        Grid(shape, affine)


def test_grid_of_images_in_every_form():
    grid = Grid((5, 6, 7), AFFINE)
    for shape in ((5, 6, 7), (1, 5, 6, 7), (9, 5, 6, 7), (1, 5, 6, 7, 9)):
        assert grid_of(MetaTensor(torch.zeros(shape), affine=torch.as_tensor(AFFINE))) == grid
    assert grid_of(nibabel.Nifti1Image(np.zeros((5, 6, 7, 9), np.float32), AFFINE)) == grid
    assert grid_of(grid) is grid
    assert same_grid(load_bold(haxby_runs()[0].bold), haxby_runs()[0].bold)
    assert not same_grid(haxby_runs()[0].bold, rest_run().bold)


def test_tensors_that_have_no_grid():
    with pytest.raises(ValueError, match=r"the image is a plain tensor.*load_bold"):
        grid_of(torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"the image has shape \(2, 1, 3, 4, 5, 6\)"):
        grid_of(MetaTensor(torch.zeros(2, 1, 3, 4, 5, 6)))


def test_files_that_have_no_grid(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7), np.float32), None), tmp_path / "lost.nii")
    with pytest.raises(ValueError, match=r"lost\.nii does not say where its voxels lie"):
        grid_of(tmp_path / "lost.nii")
    with pytest.raises(FileNotFoundError):
        grid_of(tmp_path / "absent.nii")
    cortex = nibabel.cifti2.BrainModelAxis.from_mask(np.ones((2, 2, 2), bool), affine=AFFINE)
    surface = nibabel.Cifti2Image(np.ones((4, 8)), header=(nibabel.cifti2.SeriesAxis(0, 1, 4), cortex))
    with pytest.raises(ValueError, match="the image is a Cifti2Image, which has no grid"):
        same_grid(surface, mni152_grid())


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.tuples(*[st.floats(0.4, 9.0)] * 3),
    st.integers(0, 1000),
)
def test_another_spacing_covers_the_same_field_of_view(shape, spacing, seed):
    grid = Grid(shape, AFFINE + np.random.default_rng(seed).normal(scale=0.1, size=(4, 4)) * [[1], [1], [1], [0]])
    other = grid.with_spacing(spacing)
    np.testing.assert_allclose(other.spacing, spacing)
    # the middle stays, and so do the directions
    middle = world(grid, (np.array(grid.shape) - 1) / 2)
    np.testing.assert_allclose(world(other, (np.array(other.shape) - 1) / 2), middle, atol=1e-9)
    np.testing.assert_allclose(
        other.affine[:3, :3] / other.affine[:3, :3].norm(dim=0), grid.affine[:3, :3] / grid.affine[:3, :3].norm(dim=0)
    )
    excess = np.array(other.shape) * other.spacing - np.array(grid.shape) * grid.spacing
    assert (excess > -0.01).all()
    assert (excess < other.spacing).all()


def test_spacing_of_its_own_changes_nothing():
    grid = Grid((5, 6, 7), AFFINE)
    assert grid.with_spacing(grid.spacing) == grid


@pytest.mark.parametrize("spacing", [0.0, -1.0, float("nan"), float("inf"), (1.0, 2.0)])
def test_what_is_no_spacing(spacing):
    with pytest.raises(ValueError, match=r"spacing is .*, but it has to be one or three numbers of mm above 0"):
        mni152_grid().with_spacing(spacing)


def test_mni152_grids():
    assert world(mni152_grid(), (0, 0, 0)).tolist() == [-90, -126, -72]
    assert world(mni152_grid(4.0), (47, 55, 47)).tolist() == [94, 92, 112]
    assert mni152_grid(4.0) == grid_of(rest_run().bold)
    # the usual grid of 3 mm comes out of the field of view of 2 mm
    assert mni152_grid(3.0) == Grid((61, 73, 61), [[3, 0, 0, -90], [0, 3, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
    # voxels of 1 mm lie where those of 2 mm do
    assert np.array_equal(world(mni152_grid(1.0), (1, 0, 0)), world(mni152_grid(), (0, 0, 0)))
