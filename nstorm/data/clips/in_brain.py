"""Clips that hold the voxels of the brain only: batches of them, and the way back to the whole grid."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

NOWHERE = -1
"""The place of a voxel that only fills up a batch."""


def collate_brain(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch of clips that hold the voxels of the brain only, as :class:`ClipDataset` gives them on request.

    Brains differ in size: the smaller ones are filled up with voxels of value 0 whose place is -1.

    Args:
        items: Clips with ``image`` ``(T, V)`` and ``places`` ``(V,)``.

    Returns:
        ``image`` ``(B, T, V)``, ``places`` ``(B, V)``, and all else as MONAI's loaders collate it.

    Example:
        >>> import torch
        >>> from nstorm.data import collate_brain
        >>> clips = [{"image": torch.rand(20, size), "places": torch.arange(size)} for size in (5, 7)]
        >>> batch = collate_brain(clips)
        >>> batch["image"].shape, batch["places"][0]
        (torch.Size([2, 20, 7]), tensor([ 0,  1,  2,  3,  4, -1, -1]))
    """
    from monai.data.utils import list_data_collate

    most = max(item["places"].shape[-1] for item in items)
    filled = [
        {**item, "image": _filled(item["image"], most, 0), "places": _filled(item["places"], most, NOWHERE)}
        for item in items
    ]
    batch: dict[str, Any] = list_data_collate(filled)
    return batch


def to_dense(
    values: Float[Tensor, "b t v"],
    places: Int[Tensor, "b v"],
    shape: Sequence[int | Tensor],
    background: float | Tensor = 0.0,
) -> Float[Tensor, "b 1 h w d t"]:
    """Put in-brain voxels back onto the whole grid, on the device where they are; gradients flow back to the values.

    Args:
        values: A batch of clips ``(B, T, V)``.
        places: Where on the grid, in C order, the voxels lie ``(B, V)``; those of -1 are left out.
        shape: The grid ``(H, W, D)``, or what a loader makes of one in every item.
        background: The value outside the brain, one for all or one for each clip ``(B,)``.

    Returns:
        Clips ``(B, 1, H, W, D, T)``.

    Raises:
        ValueError: The clips have different grids.

    Example:
        >>> import torch
        >>> from nstorm.data import to_dense
        >>> values, places = torch.rand(2, 20, 50), torch.stack([torch.randperm(60)[:50] for _ in range(2)])
        >>> to_dense(values, places, (3, 4, 5)).shape
        torch.Size([2, 1, 3, 4, 5, 20])
    """
    grid = [int(size) for size in map(_the_same, shape)]
    batch, num_frames, _ = values.shape
    size = grid[0] * grid[1] * grid[2]
    # a last row takes what has no place
    rows = values.new_zeros(batch * size + 1, num_frames)
    outside = torch.as_tensor(background)
    if outside.any():
        rows[:-1].view(batch, -1, num_frames).copy_(outside.to(rows).reshape(-1, 1, 1))
    starts = torch.arange(batch, device=values.device)[:, None] * size
    index = torch.where(places < 0, batch * size, places + starts)
    rows.index_copy_(0, index.flatten(), values.transpose(1, 2).reshape(-1, num_frames))
    return rows[:-1].view(batch, 1, *grid, num_frames)


def _filled(values: Tensor, size: int, value: int) -> Tensor:
    lacking = size - values.shape[-1]
    # padding with nothing would copy
    return torch.nn.functional.pad(values, (0, lacking), value=value) if lacking else values


def _the_same(sizes: int | Tensor) -> Tensor:
    found = torch.as_tensor(sizes).unique()
    if len(found) > 1:
        raise ValueError(
            f"the clips of a batch have grids of different sizes ({found.tolist()}): prepare the study on one grid, as "
            "the preset '4mm' does, or load such clips one by one"
        )
    return found
