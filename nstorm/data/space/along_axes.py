"""Resampling between two grids whose axes are parallel: a small matrix for each axis does it all."""

import math

import torch
from torch import Tensor

from nstorm.data.space.at_places import ROUNDING
from nstorm.data.space.grid import Grid
from nstorm.data.space.smoothing import smoothing


def parallel_axes(source: Grid, target: Grid, tolerance: float) -> list[int] | None:
    """Find which axis of one grid each axis of another runs along, or against; None where one is oblique.

    Args:
        source: The one.
        target: The other.
        tolerance: How far the axes may lead aside over their whole length, in voxels of the source.
    """
    steps = torch.linalg.solve(source.affine, target.affine)[:3, :3].abs()
    along = steps.argmax(dim=0)
    aside = steps * (torch.tensor(target.shape) - 1)
    aside[along, torch.arange(3)] = 0
    return along.tolist() if along.unique().numel() == 3 and aside.sum() <= tolerance else None


class AlongAxes:
    """Smooth and interpolate linearly, onto a grid whose axes are parallel to those of the image.

    Both are sums along one axis after the other, and such a sum is a product with a matrix.

    Args:
        source: The grid of the image.
        target: The grid to resample onto.
        widths: Extent of a new voxel along each axis of the source, in old ones: above 1, it is smoothed as much.
        along: The axis of the source that each axis of the target runs along, as :func:`parallel_axes` finds them.

    Attributes:
        outside: Which voxels of the target, ``(H, W, D)``, lie outside the field of view of the source.
    """

    def __init__(self, source: Grid, target: Grid, widths: list[float], along: list[int]) -> None:
        to_source = torch.linalg.solve(source.affine, target.affine)
        self.along = along
        self.matrices = {}
        self.outside = torch.zeros(target.shape, dtype=torch.bool)
        for new, old in enumerate(along):
            size = source.shape[old]
            places = torch.arange(target.shape[new], dtype=torch.float64) * to_source[old, new] + to_source[old, 3]
            beyond = (places < -0.5 - ROUNDING) | (places > size - 0.5 + ROUNDING)
            self.outside.movedim(new, -1).logical_or_(beyond)
            apart = places.clamp(0, size - 1)[:, None] - torch.arange(size)
            linear, kernel = (1 - apart.abs()).clamp(min=0), smoothing(size, widths[old])
            self.matrices[old + 1] = linear if kernel is None else linear @ kernel

    def __call__(self, clip: Tensor) -> Tensor:
        """Resample a clip in either layout; outside the field of view its border goes on."""
        for axis, matrix in self.matrices.items():
            clip = _product(matrix.to(clip), clip, axis)
        return clip.permute(0, *(old + 1 for old in self.along), *range(4, clip.ndim))


def _product(matrix: Tensor, clip: Tensor, axis: int) -> Tensor:
    if axis == clip.ndim - 1:
        return clip @ matrix.T
    before, after = clip.shape[:axis], clip.shape[axis + 1 :]
    lines = matrix @ clip.reshape(math.prod(before), clip.shape[axis], math.prod(after))
    return lines.view(*before, len(matrix), *after)
