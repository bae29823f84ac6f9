"""Resampling between any two grids: each voxel of the target is read at its place in the image."""

import math

import torch
from torch import Tensor

from nstorm.data.layout import time_axis, time_first
from nstorm.data.space.grid import Grid
from nstorm.data.space.sampling import sample_volume
from nstorm.data.space.smoothing import smoothing

ROUNDING = 1e-6
"""How far beyond the field of view a place may lie for a rounding error, in voxels."""

_TIE_MM = 1e-4


class AtPlaces:
    """Resample an image from one grid onto another, whatever lies between the two.

    Args:
        source: The grid of the image.
        target: The grid to resample onto.
        widths: Extent of a new voxel along each axis of the source, in old ones: above 1, it is smoothed as much.
        mode: ``"bilinear"`` or ``"nearest"``.

    Attributes:
        outside: Which voxels of the target, ``(H, W, D)``, lie outside the field of view of the source.
    """

    def __init__(self, source: Grid, target: Grid, widths: list[float], mode: str) -> None:
        to_source = torch.linalg.solve(source.affine, target.affine)
        axes = [torch.arange(size, dtype=torch.float64) for size in target.shape]
        indices = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        self.places = indices @ to_source[:3, :3].T + to_source[:3, 3]
        last = self.places.new_tensor(source.shape) - 1
        self.outside = ((self.places < -0.5 - ROUNDING) | (self.places > last + 0.5 + ROUNDING)).any(dim=-1)
        if mode == "nearest":
            # Half-way between voxels the one to the right, to the front or above is taken, in whatever order they are
            # stored, and whatever the rounding errors.
            self.places += torch.linalg.solve(source.affine[:3, :3], self.places.new_full((3,), _TIE_MM))
        self.mode = mode
        self.kernels = [smoothing(size, width) for size, width in zip(source.shape, widths, strict=True)]

    def __call__(self, clip: Tensor) -> Tensor:
        """Resample a clip in either layout; outside the field of view its border goes on."""
        volume = time_first(clip).movedim(0, -1).contiguous()
        for axis, kernel in enumerate(self.kernels):
            if kernel is not None:
                lines = volume.reshape(math.prod(volume.shape[:axis]), volume.shape[axis], -1)
                volume = (kernel.to(volume) @ lines).view(volume.shape)
        places = self.places if self.mode == "nearest" else self.places.to(volume.dtype)
        values = sample_volume(volume, places.to(volume.device), mode=self.mode)
        return values.movedim(-1, 0) if time_axis(clip) == 0 else values[None]
