"""Atlases on the grid of a run, by the affines of the two."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.normalize import mask_of_shape
from nstorm.data.parcels.atlas import Atlas
from nstorm.data.space.grid import Grid, grid_of

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

# Decimals of a voxel: affines stored in float32 are no more exact, and their last digits must not decide on rounding.
_DECIMALS = 4


def resample_atlas(atlas: Atlas, like: "Grid | Tensor | SpatialImage | str | PathLike[str]") -> Atlas:
    """Bring an atlas to the grid of a run: every voxel takes the label that the atlas has at its place in mm.

    The two affines say where that is, in whatever order and direction the axes of either are stored, so that left and
    right cannot change sides. Parcels that get no voxel keep their place; their entry of ``sizes`` is 0.

    Args:
        atlas: Parcels in the same space as the run, such as MNI152.
        like: The run, clip, mask, file or grid whose grid the atlas gets.

    Raises:
        ValueError: ``like`` has no affine, or no voxel of the atlas lies in it.

    Warns:
        UserWarning: A voxel of the atlas has more than twice the volume of a voxel of the run, so that borders of
            parcels are coarse.

    Example:
        >>> from nstorm.data import rest_run
        >>> from nstorm.data.parcels.atlas import schaefer_atlas
        >>> from nstorm.data.parcels.atlas_space import resample_atlas
        >>> atlas = resample_atlas(schaefer_atlas(400), rest_run().bold)
        >>> atlas.image.shape, int(atlas.sizes.min())
        (torch.Size([1, 48, 56, 48]), 8)
    """
    from monai.data.meta_tensor import MetaTensor

    own, grid = grid_of(atlas.image), grid_of(like)
    if own == grid:
        return atlas
    ratio = float((own.affine.det() / grid.affine.det()).abs())
    if ratio > 2:
        warnings.warn(
            f"a voxel of atlas {atlas.name} has {ratio:.3g} times the volume of a voxel of the run, so that borders of "
            "parcels are coarse: prefer an atlas with smaller voxels",
            stacklevel=2,
        )
    labels = atlas.image[0].numpy()
    nearest = _nearest_voxels(np.ogrid[tuple(map(slice, grid.shape))], grid, own)
    moved = np.where(nearest < 0, 0, labels.ravel()[nearest])
    if not moved.any():
        raise ValueError(
            f"no voxel of atlas {atlas.name} lies in the grid of {grid.shape} voxels with the affine "
            f"{grid.affine.tolist()}: give an atlas in the space of the run"
        )
    return replace(atlas, image=MetaTensor(torch.from_numpy(moved)[None], affine=grid.affine.clone()))


def parcel_coverage(
    atlas: Atlas,
    like: "Grid | Tensor | SpatialImage | str | PathLike[str]",
    *,
    mask: Tensor | None = None,
) -> Float[Tensor, " parcels"]:
    """Compute which fraction of each parcel lies in the field of view of a run, and in its mask.

    A voxel of the atlas counts if the run has a voxel at its place; so give the atlas on its own grid.

    Args:
        atlas: Parcels in the same space as the run.
        like: The run, clip, mask, file or grid.
        mask: Boolean, on the grid of ``like``: ``(H, W, D)`` or ``(1, H, W, D)``. By default all voxels.

    Returns:
        Fractions from 0 to 1; 0 for a parcel without voxels.

    Raises:
        ValueError: ``like`` has no affine, or the mask is not boolean or on another grid.

    Example:
        >>> from nstorm.data import rest_run
        >>> from nstorm.data.parcels.atlas import schaefer_atlas
        >>> from nstorm.data.parcels.atlas_space import parcel_coverage
        >>> from nstorm.data.files.masks import load_mask
        >>> run = rest_run()
        >>> coverage = parcel_coverage(schaefer_atlas(100), run.bold, mask=load_mask(run.mask))
        >>> [round(float(value), 2) for value in (coverage.min(), coverage.median())]
        [0.87, 0.99]
    """
    grid = grid_of(like)
    seen = np.ones(grid.shape, dtype=bool) if mask is None else mask_on_grid(mask, grid)
    labels = atlas.image[0].numpy()
    voxels = np.nonzero(labels)
    nearest = _nearest_voxels(voxels, grid_of(atlas.image), grid)
    inside = (nearest >= 0) & seen.ravel()[nearest]
    sizes = atlas.sizes
    counts = torch.from_numpy(np.bincount(labels[voxels][inside], minlength=len(sizes) + 1)[1:])
    return counts / sizes.clamp(min=1)


def mask_on_grid(mask: Tensor, grid: Grid) -> NDArray[np.bool_]:
    """Give a mask as an array ``(H, W, D)``, if it is boolean and on a grid.

    A plain tensor is taken to be on the grid if it has its shape.

    Raises:
        ValueError: The mask is not boolean, or has another shape or another affine.
    """
    from monai.data.meta_tensor import MetaTensor

    inside = mask_of_shape(mask, grid.shape)
    if isinstance(mask, MetaTensor) and Grid(grid.shape, mask.affine) != grid:
        raise ValueError(
            f"mask has the affine {mask.affine.tolist()}, but the run has {grid.affine.tolist()}: read it with "
            "nstorm.data.load_mask(..., like=run), or pass mask.as_tensor() if it is on the run's grid"
        )
    return np.asarray(inside.numpy(force=True))


def _nearest_voxels(voxels: Sequence[NDArray[np.intp]], grid: Grid, other: Grid) -> NDArray[np.intp]:
    """Number, in C order, the voxels of another grid that hold the centres of voxels of a grid; -1 is outside."""
    matrix = torch.linalg.solve(other.affine, grid.affine).numpy()
    number: NDArray[np.intp] = np.zeros(1, dtype=np.intp)
    inside: NDArray[np.bool_] = np.ones(1, dtype=bool)
    for row, size in zip(matrix[:3], other.shape, strict=True):
        centre = row[0] * voxels[0] + row[1] * voxels[1] + row[2] * voxels[2] + row[3]
        # halves go up: of two voxels equally near it is the same one, however the axes of the grid are stored
        index = np.floor(np.round(centre, _DECIMALS) + 0.5).astype(np.intp)
        inside = inside & (index >= 0) & (index < size)
        number = number * size + index
    return np.where(inside, number, -1)
