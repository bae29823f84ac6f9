import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from scipy.ndimage import map_coordinates

from nstorm.data import rest_run, time_last
from nstorm.data.space.along_axes import AlongAxes, parallel_axes
from nstorm.data.space.at_places import AtPlaces
from nstorm.data.space.grid import Grid, grid_of, mni152_grid
from nstorm.data.space.resample_space import resample_space

# the function of the same name may hide it
module = importlib.import_module("nstorm.data.space.resample_space")

OBLIQUE = np.array([[0.8, -0.6, 0], [0.48, 0.64, -0.6], [0.36, 0.48, 0.8]])


def plainly(frames, source, target, antialias, padding):
    """What resampling is: a Gaussian along each axis, and then what lies between eight voxels at each place."""
    to_source = np.linalg.solve(source.affine.numpy(), target.affine.numpy())
    places = np.tensordot(to_source[:3, :3], np.indices(target.shape), 1) + to_source[:3, 3, None, None, None]
    for axis, size in enumerate(source.shape):
        width = np.linalg.norm(to_source[axis, :3])
        if antialias and width > 1:
            apart = np.subtract.outer(np.arange(size), np.arange(size))
            weights = np.exp(-(apart**2) * 4 * math.log(2) / (width**2 - 1))
            weights /= weights.sum(1, keepdims=True)
            frames = np.moveaxis(np.tensordot(weights, frames, (1, axis + 1)), 0, axis + 1)
    result = np.stack([map_coordinates(frame, places, order=1, mode="nearest") for frame in frames])
    last = np.array(source.shape)[:, None, None, None] - 1
    if padding != "border":
        result[:, ((places < -0.5 - 1e-6) | (places > last + 0.5 + 1e-6)).any(0)] = padding
    return torch.from_numpy(result)


def two_grids(rng, shape):
    """A grid, and another whose axes are permuted and flipped, partly beyond the first, with voxels of other sizes."""
    affine = np.eye(4)
    affine[:3, :3] = (OBLIQUE if rng.random() < 0.3 else np.eye(3)) @ np.diag(rng.uniform(1, 4, 3))
    affine[:3, 3] = rng.normal(scale=50, size=3)
    along, steps = rng.permutation(3), rng.uniform(0.4, 4, 3) * rng.choice([-1, 1], 3)
    wanted = np.maximum(1, np.rint(np.array(shape)[along] / np.abs(steps) * rng.uniform(0.5, 1.5, 3))).astype(int)
    to_source = np.eye(4)
    to_source[:3, :3] = np.eye(3)[:, along] * steps
    to_source[:3, 3] = (np.array(shape) - 1) / 2 - to_source[:3, :3] @ ((wanted - 1) / 2)
    to_source[:3, 3] += rng.uniform(-0.4, 0.4, 3)
    return Grid(shape, affine), Grid(wanted.tolist(), affine @ to_source), along.tolist()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    shape=st.tuples(*[st.sampled_from([1, 2, 5, 8, 13, 30])] * 3),
    antialias=st.booleans(),
    padding=st.sampled_from([0.0, -7.5, "border"]),
)
def test_is_smoothing_and_then_sampling(seed, shape, antialias, padding):
    rng = np.random.default_rng(seed)
    source, target, along = two_grids(rng, shape)
    if np.prod(shape) > 1:
        assert parallel_axes(source, target, 1e-6) == along
    frames = rng.normal(size=(3, *shape))
    expected = plainly(frames, source, target, antialias, padding)
    size = np.abs(frames).max()
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        bold = MetaTensor(torch.from_numpy(frames).to(dtype), affine=source.affine)
        for run, wanted in ((bold, expected), (time_last(bold), time_last(expected))):
            result = resample_space(run, target, antialias=antialias, padding=padding)
            assert grid_of(result) == target
            torch.testing.assert_close(result.as_tensor(), wanted.to(dtype), rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("target", [mni152_grid(4.0), mni152_grid(3.0), mni152_grid(2.0).with_spacing((2.0, 5.0, 3.0))])
def test_outside_is_what_it_is_for_places(target):
    source = grid_of(rest_run().bold)
    widths = [1.0, 1.0, 1.0]
    for other in (source, mni152_grid(2.0), Grid((20, 30, 10), np.diag([-4.0, 4, 4, 1]))):
        found = AlongAxes(other, target, widths, [0, 1, 2]).outside
        assert torch.equal(found, AtPlaces(other, target, widths, "bilinear").outside)
        assert found.any() or other == target or target.shape != (48, 56, 48)


def test_grids_of_parallel_axes_take_matrices(monkeypatch):
    def refuse(*args):
        raise AssertionError("each place was read")

    monkeypatch.setattr(module, "AtPlaces", refuse)
    bold = MetaTensor(torch.rand(2, 9, 8, 7), affine=torch.diag(torch.tensor([-2.0, 2, 2, 1])))
    for target in (mni152_grid(8.0), 3.0, (1.0, 2.0, 3.0)):
        resample_space(bold, target)
    with pytest.raises(AssertionError, match="each place was read"):
        resample_space(bold > 0.5, 3.0)


@pytest.mark.parametrize("tilt", [1e-3, 1e-7, 1e-9])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_tilt_is_never_left_out_where_it_counts(tilt, dtype, tolerance):
    rng = np.random.default_rng(0)
    source = Grid((31, 20, 25), np.diag([2.0, 2, 2, 1]))
    affine = np.diag([3.0, 3, 3, 1])
    affine[0, 1] = tilt
    target = Grid((18, 12, 16), affine)
    frames = rng.normal(size=(2, *source.shape))
    bold = MetaTensor(torch.from_numpy(frames).to(dtype), affine=source.affine)
    expected = plainly(frames, source, target, True, 0.0).to(dtype)
    torch.testing.assert_close(resample_space(bold, target).as_tensor(), expected, rtol=0, atol=tolerance)


def test_which_axes_are_parallel():
    grid = Grid((10, 11, 12), np.diag([2.0, 2, 2, 1]))
    affine = np.array([[0, 0, -3.0, 9], [0, 2, 0, 1], [1.0, 0, 0, 3], [0, 0, 0, 1]])
    assert parallel_axes(grid, Grid((5, 6, 7), affine), 1e-6) == [2, 1, 0]
    # the second axis leads aside by a hundredth of a voxel at its end
    affine[0, 1] = 0.004
    assert parallel_axes(grid, Grid((5, 6, 7), affine), 1e-6) is None
    assert parallel_axes(grid, Grid((5, 6, 7), affine), 0.02) == [2, 1, 0]
    # an axis of one voxel leads nowhere
    assert parallel_axes(grid, Grid((5, 1, 7), affine), 1e-6) == [2, 1, 0]
    affine[:3, :3] = OBLIQUE
    assert parallel_axes(grid, Grid((5, 6, 7), affine), 1e-6) is None


def test_what_is_not_finite_stays_where_it_is():
    values = torch.rand(3, 9, 8, 7)
    values[1, 4, 4, 4] = math.nan
    values[2, 0, 0, 0] = math.inf
    bold = MetaTensor(values, affine=torch.eye(4))
    result = resample_space(bold, (0.5, 1.0, 1.0), antialias=False)
    finite = resample_space(MetaTensor(values.nan_to_num(0, 0), affine=torch.eye(4)), (0.5, 1.0, 1.0), antialias=False)
    bad = ~result.as_tensor().isfinite()
    assert bad.flatten(1).sum(1).tolist()[0] == 0
    assert 0 < bad.sum() < 70
    torch.testing.assert_close(result.as_tensor()[~bad], finite.as_tensor()[~bad])


@pytest.mark.parametrize("last", [False, True])
def test_is_differentiable(last, monkeypatch):
    monkeypatch.setattr(module, "_SLAB_BYTES", 20_000)
    target = Grid((4, 9, 3), np.array([[0, 0, -2.5, 5], [0, 0.7, 0, -1], [1.8, 0, 0, 1], [0, 0, 0, 1]]))
    values = torch.rand(5, 6, 7, 8, dtype=torch.float64, requires_grad=True)
    bold = MetaTensor(values, affine=torch.eye(4))
    result = resample_space(time_last(bold) if last else bold, target).as_tensor()
    total = (result * torch.rand_like(result)).sum()
    total.backward()
    # resampling is linear
    torch.testing.assert_close((values.grad * values).sum(), total)
