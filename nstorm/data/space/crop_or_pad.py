"""Cropping and padding of space to a size, or to a mask."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nstorm.data.layout import time_axis
from nstorm.data.normalize import voxels_inside
from nstorm.data.time.timing import with_meta


def crop_or_pad(
    bold: Tensor,
    size: int | Sequence[int],
    *,
    mask: Tensor | None = None,
    value: float | str = 0.0,
) -> Tensor:
    """Cut a run to a number of voxels along each axis of space, and fill up where it is smaller.

    What is cut off or added is shared by both sides. Of an odd number one more is cut off at the end, or added at the
    start, as the published NeuroSTORM does: 91x109x91 become 96x96x96 by 3 new voxels before and 2 after along x and
    z, and by 6 fewer before and 7 after along y. Every voxel keeps its place in mm: the affine moves.

    Args:
        bold: A run or clip of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``; a mask or an image is a run of one frame.
        size: Number of voxels along all axes, or along each.
        mask: Boolean ``(H, W, D)`` or ``(1, H, W, D)``, whose bounding box comes to lie in the middle. By default the
            middle of the image does.
        value: What is filled in: a number, or ``"min"`` for the lowest value of the run.

    Returns:
        The run in the layout and dtype that were given; a MetaTensor has the new affine and otherwise the same meta.

    Raises:
        ValueError: The run has another shape, a size is below 1, or the mask is empty or on another grid.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.space.crop_or_pad import crop_or_pad
        >>> bold = load_bold(rest_run().bold)
        >>> crop_or_pad(bold, (48, 48, 48)).shape
        torch.Size([200, 48, 48, 48])
    """
    start, sizes = centred(bold, size, mask)
    return window(bold, start, sizes, value=value)


def crop_to_mask(bold: Tensor, mask: Tensor, *, margin: int = 0, multiple: int = 1) -> Tensor:
    """Cut a run to the bounding box of a mask, such as the brain; every voxel keeps its place in mm.

    Args:
        bold: A run or clip of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``.
        mask: Boolean ``(H, W, D)`` or ``(1, H, W, D)``.
        margin: Voxels to keep around the bounding box.
        multiple: The size along every axis becomes a multiple of this, as networks need it; zeros are filled in where
            the image ends before.

    Raises:
        ValueError: The run has another shape, the mask is empty or on another grid, or a number is out of range.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.space.crop_or_pad import crop_to_mask
        >>> bold = load_bold(rest_run().bold)
        >>> crop_to_mask(bold, bold.mean(0) > 1000, multiple=8).shape
        torch.Size([200, 40, 48, 40])
    """
    start, sizes = around(bold, mask, margin, multiple)
    return window(bold, start, sizes)


def centred(bold: Tensor, size: int | Sequence[int], mask: Tensor | None) -> tuple[list[int], list[int]]:
    """Give the first voxel, which may lie outside, and the size of a window around the middle of an image or mask."""
    time_axis(bold)
    sizes = [size] * 3 if isinstance(size, int) else list(size)
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"size is {size}, but it has to be one or three numbers of voxels, 1 or more")
    low, high = ([0, 0, 0], list(bold.shape[1:4])) if mask is None else _bounding_box(bold, mask)
    return [(first + last - wanted) // 2 for first, last, wanted in zip(low, high, sizes, strict=True)], sizes


def around(bold: Tensor, mask: Tensor, margin: int, multiple: int) -> tuple[list[int], list[int]]:
    """Give the first voxel, which may lie outside, and the size of a window around a mask."""
    if margin < 0 or multiple < 1:
        raise ValueError(f"margin is {margin} and multiple {multiple}, but they have to be at least 0 and 1")
    low, high = _bounding_box(bold, mask)
    sizes = [
        math.ceil((last - first + 2 * margin) / multiple) * multiple for first, last in zip(low, high, strict=True)
    ]
    return centred(bold, sizes, mask)


def window(bold: Tensor, start: Sequence[int], size: Sequence[int], *, value: float | str = 0.0) -> Tensor:
    """Cut out the voxels from ``start`` to ``start + size``, which may lie outside; the affine follows."""
    values = bold.as_subclass(Tensor)
    if isinstance(value, str):
        if value != "min":
            raise ValueError(f"value is {value!r}, but it has to be 'min' or a number")
        value = values.min().item()
    shape = list(bold.shape)
    shape[1:4] = size
    result = values.new_full(shape, value)
    there, here = [slice(None)], [slice(None)]
    for first, wanted, available in zip(start, size, bold.shape[1:4], strict=True):
        low, high = max(first, 0), min(first + wanted, available)
        there.append(slice(low, high))
        here.append(slice(low - first, high - first))
    result[tuple(here)] = values[tuple(there)]
    affine = getattr(bold, "affine", None)
    if affine is None:
        return result
    moved = affine.clone()
    moved[:3, 3] += affine[:3, :3] @ torch.tensor(list(start)).to(affine)
    return with_meta(result, bold, affine=moved)


def _bounding_box(bold: Tensor, mask: Tensor) -> tuple[list[int], list[int]]:
    inside = voxels_inside(bold, mask).nonzero()
    return inside.amin(0).tolist(), (inside.amax(0) + 1).tolist()
