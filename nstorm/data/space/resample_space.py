"""Resampling in space, by affine: to a voxel size or onto another image's grid."""

import math
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nstorm.data.layout import time_axis, time_first
from nstorm.data.space.along_axes import AlongAxes, parallel_axes
from nstorm.data.space.at_places import AtPlaces
from nstorm.data.space.grid import Grid, grid_of
from nstorm.data.time.timing import with_meta

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

# Of the frames that are worked on together.
_SLAB_BYTES = 128 << 20


def resample_space(
    bold: Tensor,
    target: "Grid | Tensor | SpatialImage | str | PathLike[str] | float | Sequence[float]",
    *,
    mode: str | None = None,
    antialias: bool = True,
    padding: float | str = 0.0,
) -> Tensor:
    """Resample a run or clip onto another grid; every place keeps its position in mm.

    Where the new voxels are larger, the run is first smoothed by as much as they are wider, which keeps what is finer
    than they are from showing up as something else: by a Gaussian along each axis of the image with a standard
    deviation of ``sqrt((w^2 - 1) / (8 ln 2))`` voxels, where ``w`` is the extent of a new voxel along that axis in old
    ones (the width at half height of a Gaussian voxel then grows from 1 to ``w``).

    Only a part of the frames is worked on at a time: beside the run and the result it takes less than 0.2 GB.
    Grids whose axes are parallel, in whatever order and direction, are several times as fast as oblique ones.

    Args:
        bold: A MetaTensor of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``; a mask or an image is a run of one frame.
        target: A :class:`nstorm.data.Grid`, such as :func:`nstorm.data.mni152_grid` gives; another image, as
            :func:`nstorm.data.grid_of` takes it; or a voxel size in mm, one or three numbers, with which the
            directions of the axes and the field of view stay, as :meth:`nstorm.data.Grid.with_spacing` says.
        mode: ``"bilinear"`` (trilinear in space) or ``"nearest"``, which gives back the dtype. By default nearest for
            integers and booleans, which are labels and masks.
        antialias: Whether to smooth before larger voxels; with ``"nearest"`` nothing is smoothed.
        padding: Value outside the field of view, which ends half a voxel beyond the outer voxels; or ``"border"``
            for the value of the nearest voxel.

    Returns:
        A MetaTensor in the layout that was given, with the new affine and otherwise the same meta; float32, or float64
        for a float64 run.

    Raises:
        ValueError: The run has no affine or another shape, the target lies outside its field of view, or an argument
            has no meaning.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.space.grid import mni152_grid
        >>> from nstorm.data.space.resample_space import resample_space
        >>> bold = load_bold(rest_run().bold)[:3]
        >>> resample_space(bold, mni152_grid(2.0)).shape
        torch.Size([3, 91, 109, 91])
        >>> resample_space(bold, 8.0).affine.diag()
        tensor([8., 8., 8., 1.], dtype=torch.float64)
    """
    if isinstance(padding, str) and padding != "border":
        raise ValueError(f"padding is {padding!r}, but it has to be 'border' or a number")
    source = grid_of(bold)
    wanted = grid_or_spacing(target)
    grid = wanted if isinstance(wanted, Grid) else source.with_spacing(wanted)
    if mode is None:
        mode = "bilinear" if bold.is_floating_point() else "nearest"
    frames = time_first(bold.as_subclass(Tensor))
    dtype = bold.dtype if mode == "nearest" else torch.promote_types(bold.dtype, torch.float32)
    resampled = _between(source, grid, frames, dtype, mode, antialias)
    if resampled.outside.all():
        raise ValueError(
            f"the target ({_box(grid)}) lies outside the field of view of the image ({_box(source)}): "
            "give a grid in the image's space, or correct the affine of the image"
        )

    shape = list(bold.shape)
    shape[1:4] = grid.shape
    result = torch.empty(shape, dtype=dtype, device=bold.device)
    time = time_axis(bold)
    # the frames, the same before and after smoothing along an axis, and what becomes of them
    step = max(1, _SLAB_BYTES // ((3 * math.prod(source.shape) + math.prod(grid.shape)) * result.element_size()))
    for start in range(0, len(frames), step):
        slab = min(step, len(frames) - start)
        clip = bold.as_subclass(Tensor).narrow(time, start, slab).to(dtype)
        result.narrow(time, start, slab).copy_(resampled(clip))
    if not isinstance(padding, str):
        time_first(result)[:, resampled.outside.to(bold.device)] = padding
    return with_meta(result, bold, affine=grid.affine.clone())


def grid_or_spacing(target: Any) -> Any:
    """Give the grid of what has one; a spacing stays as it is."""
    return grid_of(target) if isinstance(target, str | PathLike) or hasattr(target, "affine") else target


def _between(
    source: Grid, target: Grid, frames: Tensor, dtype: torch.dtype, mode: str, antialias: bool
) -> AlongAxes | AtPlaces:
    to_source = torch.linalg.solve(source.affine, target.affine)
    smoothed = antialias and mode == "bilinear"
    widths = to_source[:3, :3].norm(dim=1).tolist() if smoothed else [1.0, 1.0, 1.0]
    # less than what rounding makes of the values
    order = parallel_axes(source, target, 1e-12 if dtype == torch.float64 else 1e-6)
    # A product with a matrix would spread one value that is not finite over its whole frame.
    if mode != "bilinear" or order is None or not frames.sum(dtype=dtype).isfinite():
        return AtPlaces(source, target, widths, mode)
    return AlongAxes(source, target, widths, order)


def _box(grid: Grid) -> str:
    corners = torch.cartesian_prod(*(torch.tensor([-0.5, size - 0.5], dtype=torch.float64) for size in grid.shape))
    world = corners @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    lowest, highest = world.aminmax(dim=0)
    return ", ".join(
        f"{axis} from {low:.1f} to {high:.1f} mm"
        for axis, low, high in zip("xyz", lowest.tolist(), highest.tolist(), strict=True)
    )
