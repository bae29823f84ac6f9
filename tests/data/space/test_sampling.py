import pytest
import torch
from torch.nn import functional as F

from nstorm.data.space import sampling
from nstorm.data.space.sampling import sample_volume

SHAPES = [(5, 7, 4), (6, 1, 3), (1, 1, 1), (4, 3, 1)]


def places_around(shape, dtype=torch.float64):
    """Places inside, on voxels, on the border, and up to two voxels outside."""
    size = torch.tensor(shape, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    random = torch.rand(400, 3, generator=generator, dtype=dtype) * (size + 3) - 2
    voxels = torch.cartesian_prod(*(torch.arange(-1.0, n + 1) for n in shape)).to(dtype)
    return torch.cat((random, voxels))


def by_grid_sample(volume, places, mode, padding_mode):
    """PyTorch's own sampling, frame after frame, which cannot tell places along an axis of one voxel."""
    size = torch.tensor(volume.shape[:3], dtype=torch.float64)
    # an axis of one voxel gets an empty neighbour, or a copy of itself, on each side
    how = "constant" if padding_mode == "zeros" else "replicate"
    pad = [side for n in reversed(volume.shape[:3]) for side in ((1, 1) if n == 1 else (0, 0))]
    frames = F.pad(volume.double().movedim(-1, 0)[None], pad, mode=how)
    places = places.double() + (size == 1)
    grid = (places / (torch.tensor(frames.shape[2:]) - 1) * 2 - 1).flip(-1)
    sampled = F.grid_sample(frames, grid[None, None, None], mode, padding_mode, align_corners=True)
    return sampled[0, :, 0, 0].T


@pytest.mark.parametrize("padding_mode", ["border", "zeros"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_grid_sample(shape, mode, padding_mode):
    volume = torch.randn(*shape, 6, dtype=torch.float64)
    places = places_around(shape)
    if mode == "nearest":
        # grid_sample's own rounding decides which of two equally near voxels it takes
        places = places[((places % 1) - 0.5).abs().amin(dim=1) > 1e-6]
    expected = by_grid_sample(volume, places, mode, padding_mode)
    torch.testing.assert_close(
        sample_volume(volume, places, mode=mode, padding_mode=padding_mode), expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int16])
def test_is_float32_between_voxels(dtype):
    volume = (100 * torch.randn(5, 7, 4, 3)).to(dtype)
    places = places_around((5, 7, 4), torch.float32)
    values = sample_volume(volume, places)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), sample_volume(volume.double(), places), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int16, torch.float16])
def test_nearest_keeps_the_dtype(dtype):
    volume = torch.randn(5, 7, 4, 3).to(dtype)
    places = torch.tensor([[0.4, 6.0, 1.4], [9.0, 9.0, -9.0]])
    values = sample_volume(volume, places, mode="nearest")
    assert values.dtype == dtype
    assert torch.equal(values, torch.stack((volume[0, 6, 1], volume[4, 6, 0])))
    outside = sample_volume(volume, places, mode="nearest", padding_mode="zeros")[1]
    assert torch.equal(outside, torch.zeros(3, dtype=dtype))


def test_takes_places_of_any_shape_in_slabs(monkeypatch):
    volume = torch.randn(5, 7, 4, 9)
    places = 5 * torch.rand(2, 3, 11, 3)
    whole = sample_volume(volume, places)
    assert whole.shape == (2, 3, 11, 9)
    monkeypatch.setattr(sampling, "_SLAB_BYTES", 700)
    assert torch.equal(sample_volume(volume, places), whole)
    assert sample_volume(volume, places[:0]).shape == (0, 3, 11, 9)


def test_far_places_and_huge_ones_are_outside():
    volume = torch.randn(5, 7, 4, 2)
    places = torch.tensor([[1e30, 0, 0], [0, -1e12, 0], [0, 0, float("inf")]])
    corners = torch.stack((volume[4, 0, 0], volume[0, 0, 0], volume[0, 0, 3]))
    for mode in ("bilinear", "nearest"):
        torch.testing.assert_close(sample_volume(volume, places, mode=mode), corners)
        assert (sample_volume(volume, places, mode=mode, padding_mode="zeros") == 0).all()


def test_is_differentiable():
    volume = torch.randn(3, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    # away from voxels, where the slope jumps
    places = (torch.rand(5, 3, dtype=torch.float64) * 0.8 + 0.1 + torch.tensor([1, 2, 0])).requires_grad_()
    assert torch.autograd.gradcheck(sample_volume, (volume, places))


@pytest.mark.parametrize(("argument", "value"), [("mode", "cubic"), ("padding_mode", "reflection")])
def test_unknown_modes(argument, value):
    with pytest.raises(ValueError, match=f"{argument} is '{value}', but it has to be"):
        sample_volume(torch.zeros(2, 2, 2, 1), torch.zeros(1, 3), **{argument: value})
