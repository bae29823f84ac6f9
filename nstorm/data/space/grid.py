"""Grids of voxels in space: how many there are, and where they lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nstorm.data.files.nifti import open_nifti

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

TOLERANCE = 1e-3
"""Grids whose voxels lie closer together than this, in mm, are the same."""

# The grids that are in use, left to right, back to front and upwards; others are made to fit the one of 2 mm.
_MNI152 = {
    1.0: ((182, 218, 182), (-91.0, -126.0, -72.0)),
    2.0: ((91, 109, 91), (-90.0, -126.0, -72.0)),
    4.0: ((48, 56, 48), (-94.0, -128.0, -76.0)),
}


@dataclass(frozen=True, eq=False, init=False)
class Grid:
    """The voxels of an image: how many there are along each axis, and where they lie in mm.

    Grids are equal if they have the same shape and their voxels lie within 0.001 mm of each other.

    Args:
        shape: Number of voxels along the three axes of space.
        affine: From voxel indices to mm to the right, to the front and upwards (RAS+), 4x4.

    Raises:
        ValueError: The shape is not three numbers above 0, or the affine does not give each voxel a place of its own.

    Example:
        >>> import numpy as np
        >>> from nstorm.data.space.grid import Grid
        >>> grid = Grid((91, 109, 91), np.diag([-2.0, 2.0, 2.0, 1.0]))
        >>> grid.spacing
        (2.0, 2.0, 2.0)
        >>> grid.with_spacing(4.0).shape
        (46, 55, 46)
    """

    shape: tuple[int, int, int]
    affine: Tensor

    def __init__(self, shape: Sequence[int], affine: Any) -> None:
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape is {tuple(shape)}, but a grid has three axes of at least one voxel")
        matrix = torch.as_tensor(affine).detach().as_subclass(Tensor).to("cpu", torch.float64, copy=True)
        if (
            matrix.shape != (4, 4)
            or not matrix.isfinite().all()
            or not torch.allclose(matrix[3], matrix.new_tensor([0, 0, 0, 1]))
            or torch.linalg.matrix_rank(matrix[:3, :3]) < 3
        ):
            raise ValueError(
                f"affine is {matrix.tolist()}, but it has to be a 4x4 matrix that gives each voxel a place of its own "
                "in mm, with (0, 0, 0, 1) as its last row: correct it in the header of the file"
            )
        object.__setattr__(self, "shape", tuple(int(size) for size in shape))
        object.__setattr__(self, "affine", matrix)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        if self.shape != other.shape:
            return False
        # An affine map is as far off as at the corners.
        corners = torch.cartesian_prod(*(torch.tensor([0.0, size - 1], dtype=torch.float64) for size in self.shape))
        apart = corners @ (self.affine - other.affine)[:3, :3].T + (self.affine - other.affine)[:3, 3]
        return bool(apart.norm(dim=1).max() <= TOLERANCE)

    def __hash__(self) -> int:
        return hash(self.shape)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along each axis in mm."""
        x, y, z = self.affine[:3, :3].norm(dim=0).tolist()
        return x, y, z

    def with_spacing(self, spacing: float | Sequence[float]) -> "Grid":
        """Cover the same field of view, from the outer edges of its voxels, with voxels of another size.

        The axes keep their directions. Where the field of view is no multiple of the spacing, the new one reaches
        beyond it by the same on both sides, less than half a voxel.

        Args:
            spacing: In mm, one for all axes or one for each.

        Raises:
            ValueError: The spacing is not one or three finite numbers above 0.
        """
        wanted = torch.as_tensor(spacing, dtype=torch.float64)
        if wanted.shape not in ((), (3,)) or not (wanted.isfinite() & (wanted > 0)).all():
            raise ValueError(f"spacing is {spacing}, but it has to be one or three numbers of mm above 0")
        steps = wanted / self.affine[:3, :3].norm(dim=0)
        size = torch.tensor(self.shape, dtype=torch.float64)
        # As many as are needed, but none more for a rounding error.
        number = (size / steps - TOLERANCE).ceil().clamp(min=1)
        affine = self.affine.clone()
        affine[:3, :3] *= steps
        affine[:3, 3] += self.affine[:3, :3] @ ((size - 1) / 2) - affine[:3, :3] @ ((number - 1) / 2)
        return Grid([int(n) for n in number], affine)


def grid_of(image: "Grid | Tensor | SpatialImage | str | PathLike[str]") -> Grid:
    """Give the grid of an image.

    Args:
        image: A MetaTensor, which is a run in either layout, a mask ``(1, H, W, D)`` or one image ``(H, W, D)``; a
            nibabel image; a NIfTI file, of which only the header is read; or a grid.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The image is a tensor without an affine, no image, or has too few axes; or the file is damaged, no
            NIfTI image or does not say where its voxels lie.

    Example:
        >>> from nstorm.data import rest_run
        >>> from nstorm.data.space.grid import grid_of, mni152_grid
        >>> grid_of(rest_run().bold) == mni152_grid(4.0)
        True
    """
    if isinstance(image, Grid):
        return image
    if isinstance(image, Tensor):
        from monai.data.meta_tensor import MetaTensor

        if not isinstance(image, MetaTensor):
            raise ValueError(
                "the image is a plain tensor, of which nobody knows where its voxels lie: read it with "
                "nstorm.data.load_bold, or make it MetaTensor(image, affine=affine)"
            )
        if image.ndim not in (3, 4, 5):
            raise ValueError(f"the image has shape {tuple(image.shape)}, but one with a grid has 3, 4 or 5 axes")
        return Grid(image.shape if image.ndim == 3 else image.shape[1:4], image.affine)
    if isinstance(image, str | PathLike):
        file = open_nifti(Path(image))
        return Grid(file.shape[:3], file.affine)
    if not hasattr(image, "affine"):
        raise ValueError(
            f"the image is a {type(image).__name__}, which has no grid: give a MetaTensor, a nibabel image of voxels "
            "or the path of a NIfTI file"
        )
    return Grid(image.shape[:3], image.affine)


def same_grid(a: Any, b: Any) -> bool:
    """Whether the voxels of two images lie at the same places, within 0.001 mm.

    Args:
        a: What :func:`grid_of` takes.
        b: What :func:`grid_of` takes.

    Example:
        >>> from nstorm.data import rest_run
        >>> from nstorm.data.space.grid import same_grid
        >>> same_grid(rest_run().bold, rest_run().mask)
        True
    """
    return grid_of(a) == grid_of(b)


def mni152_grid(spacing: float = 2.0) -> Grid:
    """Give a grid that covers the MNI152 template, in RAS order.

    Those of 1 and 2 mm, 182x218x182 and 91x109x91, are FSL's but for the order of the first axis. That of 4 mm is
    48x56x48 and reaches a little further, so that it can be halved three times. Others cover the field of view of 2 mm.

    Args:
        spacing: Distance of neighbouring voxels in mm.

    Raises:
        ValueError: The spacing is no finite number above 0.

    Example:
        >>> from nstorm.data.space.grid import mni152_grid
        >>> mni152_grid().shape, mni152_grid(3.0).shape
        ((91, 109, 91), (61, 73, 61))
    """
    if spacing not in _MNI152:
        return mni152_grid().with_spacing(spacing)
    shape, origin = _MNI152[spacing]
    affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor(origin)
    return Grid(shape, affine)
