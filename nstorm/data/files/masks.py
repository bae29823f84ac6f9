"""Masks from NIfTI files, on their own grid or on that of a run."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.files.nifti import NiftiFile, open_nifti
from nstorm.data.files.reader import BOLDFile
from nstorm.data.space.grid import Grid, grid_of
from nstorm.data.space.resample_space import resample_space
from nstorm.data.time.timing import name_of

if TYPE_CHECKING:
    import monai.data.meta_tensor
    from nibabel.spatialimages import SpatialImage

# by how much interpolation or a slope may have moved probabilities beyond 0 and 1
OVERSHOOT = 0.1


def load_mask(
    path: str | PathLike[str],
    like: "Grid | BOLDFile | Tensor | SpatialImage | str | PathLike[str] | None" = None,
    *,
    threshold: float | None = None,
) -> "monai.data.meta_tensor.MetaTensor":
    """Read a mask, onto the grid of a run if asked.

    On another grid every voxel takes the mask's voxel that its centre lies in, found through both affines as by
    :func:`nstorm.data.resample_space`, so that left stays left and the same voxels are inside however the two files
    are stored; what lies outside the mask's image is outside the mask.

    Args:
        path: A 3D NIfTI image.
        like: What has the grid that the mask gets: a run, clip or mask, or what else
            :func:`nstorm.data.grid_of` takes. By default it keeps its own.
        threshold: Voxels above it are in the mask. By default 0 where the values are whole numbers (labels), and 0.5
            where they lie between 0 and 1 (probabilities).

    Returns:
        A boolean MetaTensor ``(1, H, W, D)`` with ``affine``, ``meta["filename_or_obj"]`` and ``meta["space_code"]``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or no 3D NIfTI image, has NaN or infinite values, or values that are neither
            labels nor probabilities and no threshold; or no voxel is in the mask, or none within ``like``; or ``like``
            has no affine.

    Example:
        >>> from nstorm.data import haxby_runs, rest_run
        >>> from nstorm.data.files.masks import load_mask
        >>> from nstorm.data.files.reader import BOLDFile
        >>> run = rest_run()
        >>> mask = load_mask(run.mask, like=BOLDFile(run.bold))
        >>> mask.shape, int(mask.sum())
        (torch.Size([1, 48, 56, 48]), 29420)
    """
    from monai.data.meta_tensor import MetaTensor

    file = open_nifti(Path(path))
    if len(file.shape) < 3 or 0 in file.shape or any(size != 1 for size in file.shape[3:]):
        raise ValueError(f"{path} has shape {file.shape}, but a mask has three axes (H, W, D): save one volume of it")
    mask: Any = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(_inside(file, threshold))[None]),
        affine=torch.from_numpy(file.affine),
        meta={"filename_or_obj": str(path), "space_code": file.space_code},
    )
    if like is None:
        return mask
    grid = grid_of(like.path if isinstance(like, BOLDFile) else like)
    if grid == grid_of(mask):
        # voxels within 0.001 mm of the run's are the run's
        mask.affine = grid.affine.clone()
        return mask
    try:
        mask = resample_space(mask, grid)
    except ValueError as error:
        raise _elsewhere(path, grid, like) from error
    if not mask.any():
        raise _elsewhere(path, grid, like)
    return mask


def _inside(file: NiftiFile, threshold: float | None) -> NDArray[np.bool_]:
    (values,) = (volume.copy() for volume in file.volumes(0, 1))
    lowest, highest = values.min(), values.max()
    if not np.isfinite([lowest, highest]).all():
        raise ValueError(f"{file.path} has NaN or infinite values: put 0 in their place, outside the mask")
    if threshold is None:
        if (values == np.rint(values)).all():
            threshold = 0
        elif lowest > -OVERSHOOT and highest < 1 + OVERSHOOT:
            threshold = 0.5
        else:
            raise ValueError(
                f"{file.path} has values from {lowest:g} to {highest:g}, neither labels (whole numbers) nor "
                "probabilities (0 to 1): pass threshold="
            )
    inside: NDArray[np.bool_] = values > threshold
    if not inside.any():
        raise ValueError(
            f"{file.path} is an empty mask: its values go from {lowest:g} to {highest:g}, and none is above "
            f"{threshold:g}: give another mask, or another threshold="
        )
    return inside


def _elsewhere(path: str | PathLike[str], grid: Grid, like: Any) -> ValueError:
    return ValueError(
        f"{path} has no voxel of its mask within the grid {grid.shape} of {_name(like)}: the two are not in the same "
        "space, so give a mask in the run's space"
    )


def _name(like: Any) -> str:
    if isinstance(like, Tensor):
        return name_of(like, "like")
    return str(like.path if isinstance(like, BOLDFile) else like)
