import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from torch.nn import functional as F

from nstorm.data import time_first, time_last
from nstorm.data.space.crop_or_pad import crop_or_pad, crop_to_mask, window

AFFINE = torch.tensor([[-2.0, 0.1, 0, 30], [0, 3, 0.4, -20], [0.2, 0, 4, 5], [0, 0, 0, 1]], dtype=torch.float64)


def coordinates(shape, frames=2):
    """An image that holds in its frames where its voxels are: the x, y and z of each in mm."""
    voxels = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in shape)).view(*shape, 3)
    places = voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    return MetaTensor(places.movedim(-1, 0).contiguous(), affine=AFFINE, meta={"tr": 2.0})


def test_the_published_size():
    """91x109x91 to 96^3 as PyTorch's pad with the numbers of the published code."""
    bold = torch.randn(2, 91, 109, 91)
    expected = F.pad(bold, (3, 2, -6, -7, 3, 2), value=-1.5)
    assert torch.equal(crop_or_pad(bold, 96, value=-1.5), expected)
    assert torch.equal(crop_or_pad(time_last(bold), 96, value=-1.5), time_last(expected))


sizes = st.tuples(*[st.integers(1, 9)] * 3)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes)
def test_every_voxel_keeps_its_place(shape, size):
    bold = coordinates(shape)
    result = crop_or_pad(bold, size, value=np.nan)
    assert result.shape == (3, *size)
    voxels = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in size)).view(*size, 3)
    places = (voxels @ result.affine[:3, :3].T + result.affine[:3, 3]).movedim(-1, 0)
    new = result.as_tensor().isnan()
    torch.testing.assert_close(places[~new], result.as_tensor()[~new])
    assert (~new[0]).sum() == np.prod(np.minimum(shape, size))
    # what is not shared evenly is cut off at the end and filled in at the start
    for axis in range(3):
        start = (shape[axis] - size[axis]) // 2
        lost, kept = shape[axis] - size[axis] - start, start
        assert lost - kept in (0, 1)


def test_both_layouts_dtypes_and_inputs_as_they_were():
    bold = coordinates((5, 4, 7))
    before = bold.clone()
    for image in (bold, time_last(bold), bold.as_tensor()):
        for size in (4, (6, 4, 3), [9, 9, 9]):
            result = crop_or_pad(image, size)
            assert torch.equal(time_first(result), time_first(crop_or_pad(bold, size)).as_tensor())
            assert isinstance(result, MetaTensor) == isinstance(image, MetaTensor)
    mask = torch.ones(1, 5, 4, 7, dtype=torch.bool)
    padded = crop_or_pad(mask, 9)
    assert padded.dtype == torch.bool
    assert padded.sum() == mask.sum()
    result = crop_or_pad(bold, (5, 4, 7))
    result += 1
    assert torch.equal(bold, before)
    assert torch.equal(bold.affine, AFFINE)


def test_filling_in_the_lowest_value():
    bold = torch.rand(3, 4, 4, 4) - 5
    padded = crop_or_pad(bold, 6, value="min")
    assert padded[0, 0, 0, 0] == bold.min()
    assert padded.min() == bold.min()


def test_around_a_mask():
    bold = coordinates((9, 8, 7))
    mask = torch.zeros(9, 8, 7, dtype=torch.bool)
    mask[6:9, 1, 2:6] = True
    result = crop_or_pad(bold, (3, 1, 4), mask=mask)
    assert torch.equal(result, bold[:, 6:9, 1:2, 2:6])
    wider = crop_or_pad(bold, (5, 3, 6), mask=mask[None])
    assert torch.equal(wider[:, 1:-1, 1:-1, 1:-1].as_tensor(), result.as_tensor())
    everywhere = torch.ones(9, 8, 7, dtype=torch.bool)
    assert torch.equal(crop_or_pad(bold, 6, mask=everywhere), crop_or_pad(bold, 6))


@pytest.mark.parametrize(
    ("margin", "multiple", "shape"), [(0, 1, (3, 1, 4)), (1, 1, (5, 3, 6)), (0, 4, (4, 4, 4)), (1, 4, (8, 4, 8))]
)
def test_to_a_mask(margin, multiple, shape):
    bold = coordinates((9, 8, 7))
    mask = torch.zeros(9, 8, 7, dtype=torch.bool)
    mask[6:9, 1, 2:6] = True
    result = crop_to_mask(bold, mask, margin=margin, multiple=multiple)
    assert result.shape[1:] == shape
    assert torch.isin(bold.as_tensor()[:, mask], result.as_tensor()).all()


def test_a_window_and_the_way_back():
    bold = coordinates((5, 6, 7))
    moved = window(bold, [-1, 2, 3], [4, 3, 9], value=7.0)
    back = window(moved, [1, -2, -3], [5, 6, 7])
    torch.testing.assert_close(back.affine, AFFINE)
    expected = torch.zeros(3, 5, 6, 7, dtype=torch.float64)
    expected[:, :3, 2:5, 3:] = bold.as_tensor()[:, :3, 2:5, 3:]
    assert torch.equal(back.as_tensor(), expected)


def test_what_is_refused():
    bold = coordinates((5, 6, 7))
    for size in (0, (4, 4), (4, 4, -1)):
        with pytest.raises(ValueError, match=r"size is .*, but it has to be one or three numbers of voxels"):
            crop_or_pad(bold, size)
    with pytest.raises(ValueError, match=r"bold has shape \(5, 6, 7\)"):
        crop_or_pad(bold[0], 4)
    with pytest.raises(ValueError, match="mask holds no voxel"):
        crop_or_pad(bold, 4, mask=torch.zeros(5, 6, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="another grid"):
        crop_or_pad(bold, 4, mask=MetaTensor(torch.ones(1, 5, 6, 7, dtype=torch.bool), affine=torch.eye(4)))
    with pytest.raises(ValueError, match="margin is -1 and multiple 1"):
        crop_to_mask(bold, torch.ones(5, 6, 7, dtype=torch.bool), margin=-1)
    with pytest.raises(ValueError, match="value is 'max', but it has to be 'min' or a number"):
        window(bold, [0, 0, 0], [5, 6, 7], value="max")
