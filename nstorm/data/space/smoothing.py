"""Smoothing before larger voxels, as a matrix for each axis."""

import math

import torch
from torch import Tensor

_ROUNDING = 1e-6
# A weight that changes no digit; many more of them, and products take several times as long: numbers close to the
# smallest that there are, are slow.
_NOTHING = 1e-20


def smoothing(size: int, width: float) -> Tensor | None:
    """Give the matrix that smooths an axis before voxels of another width, or None where there is nothing to smooth.

    Args:
        size: Number of voxels along the axis.
        width: Extent of a new voxel along the axis, in old ones.

    Returns:
        Weights ``(size, size)``, float64; the rows add up to 1.
    """
    variance = (width**2 - 1) / (8 * math.log(2))
    if variance <= _ROUNDING:
        return None
    index = torch.arange(size, dtype=torch.float64)
    weights = torch.exp(-((index[:, None] - index) ** 2) / (2 * variance))
    weights = weights.where(weights > _NOTHING, 0.0)
    # At the border what is missing of the Gaussian is made up for by what is there.
    return weights / weights.sum(dim=1, keepdim=True)
