"""Fields that vary smoothly in space, from values at control points some mm apart."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from torch import Tensor

from nstorm.data.space.grid import grid_of


def control_points(img: Tensor, spacing: float) -> tuple[int, ...]:
    """How many control points of a cubic B-spline, ``spacing`` mm apart, cover the image along each axis."""
    grid = grid_of(img)
    return tuple(int((n - 1) * size / spacing) + 4 for n, size in zip(grid.shape, grid.spacing, strict=True))


def bspline_field(control: NDArray[np.float64], img: Tensor, spacing: float) -> Tensor:
    """Evaluate a cubic B-spline with values ``(I, J, K, C)`` at its control points at every voxel: ``(H, W, D, C)``."""
    field = torch.from_numpy(control).float().to(img.device)
    grid = grid_of(img)
    for axis, (n, size) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
        knots = np.arange(-3.0, control.shape[axis] + 1)
        weights = BSpline.design_matrix(np.arange(n) * size / spacing, knots, 3).toarray()
        field = torch.tensordot(torch.from_numpy(weights).to(field), field, dims=([1], [axis])).movedim(0, axis)
    return field
