"""Resampling in space, by affine: to a voxel size or onto another image's grid."""

import math
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nstorm.data.layout import time_first
from nstorm.data.space.grid import Grid, grid_of
from nstorm.data.space.sampling import sample_volume
from nstorm.data.time.timing import with_meta

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

# Of the frames that are worked on together.
_SLAB_BYTES = 512 << 20
# A rounding error, in voxels.
_EDGE = 1e-6
_TIE_MM = 1e-4


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

    Only a part of the frames is worked on at a time: beside the run and the result it takes some 0.5 GB.

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
    to_source = torch.linalg.solve(source.affine, grid.affine)
    places = _places(grid.shape, to_source)
    outside = _beyond(places, source.shape)
    if outside.all():
        raise ValueError(
            f"the target ({_box(grid)}) lies outside the field of view of the image ({_box(source)}): "
            "give a grid in the image's space, or correct the affine of the image"
        )

    frames = time_first(bold.as_subclass(Tensor))
    kernels = []
    if mode == "nearest":
        dtype = bold.dtype
        # Half-way between voxels the one to the right, to the front or above is taken, in whatever order they are
        # stored, and whatever the rounding errors.
        places += torch.linalg.solve(source.affine[:3, :3], torch.full((3,), _TIE_MM, dtype=torch.float64))
    else:
        dtype = torch.promote_types(bold.dtype, torch.float32)
        places = places.to(dtype)
        if antialias:
            widths = to_source[:3, :3].norm(dim=1).tolist()
            kernels = [
                _smoothing(n, width).to(bold.device, dtype) for n, width in zip(source.shape, widths, strict=True)
            ]
    places, outside = places.to(bold.device), outside.to(bold.device)

    shape = list(bold.shape)
    shape[1:4] = grid.shape
    result = torch.empty(shape, dtype=dtype, device=bold.device)
    # the frames, the same before and after smoothing along an axis, and what becomes of them
    step = max(1, _SLAB_BYTES // ((3 * math.prod(source.shape) + math.prod(grid.shape)) * result.element_size()))
    for start in range(0, len(frames), step):
        volume = frames[start : start + step].movedim(0, -1).to(dtype).contiguous()
        values = sample_volume(_smoothed(volume, kernels), places, mode=mode)
        if not isinstance(padding, str):
            values[outside] = padding
        time_first(result)[start : start + step] = values.movedim(-1, 0)
    return with_meta(result, bold, affine=grid.affine.clone())


def grid_or_spacing(target: Any) -> Any:
    """Give the grid of what has one; a spacing stays as it is."""
    return grid_of(target) if isinstance(target, str | PathLike) or hasattr(target, "affine") else target


def _places(shape: tuple[int, int, int], to_source: Tensor) -> Tensor:
    axes = [torch.arange(size, dtype=to_source.dtype) for size in shape]
    indices = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return indices @ to_source[:3, :3].T + to_source[:3, 3]


def _beyond(places: Tensor, shape: tuple[int, int, int]) -> Tensor:
    last = places.new_tensor(shape) - 1
    return ((places < -0.5 - _EDGE) | (places > last + 0.5 + _EDGE)).any(dim=-1)


def _smoothing(size: int, width: float) -> Tensor:
    variance = max(width**2 - 1, 0.0) / (8 * math.log(2))
    index = torch.arange(size, dtype=torch.float64)
    apart = index[:, None] - index
    # At the border what is missing of the Gaussian is made up for by what is there.
    weights = torch.exp(-(apart**2) / (2 * variance)) if variance > _EDGE else torch.eye(size, dtype=torch.float64)
    return weights / weights.sum(dim=1, keepdim=True)


def _smoothed(volume: Tensor, kernels: list[Tensor]) -> Tensor:
    for axis, kernel in enumerate(kernels):
        lines = volume.reshape(math.prod(volume.shape[:axis]), volume.shape[axis], -1)
        volume = (kernel @ lines).view(volume.shape)
    return volume


def _box(grid: Grid) -> str:
    corners = torch.cartesian_prod(*(torch.tensor([-0.5, size - 0.5], dtype=torch.float64) for size in grid.shape))
    world = corners @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    lowest, highest = world.aminmax(dim=0)
    return ", ".join(
        f"{axis} from {low:.1f} to {high:.1f} mm"
        for axis, low, high in zip("xyz", lowest.tolist(), highest.tolist(), strict=True)
    )
