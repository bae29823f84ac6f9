"""Orientation: the order and the direction of an image's axes."""

import numpy as np
import torch
from nibabel.orientations import aff2axcodes, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.layout import time_axis
from nstorm.data.space.grid import grid_of
from nstorm.data.time.timing import with_meta

_OPPOSITES = ({"L", "R"}, {"P", "A"}, {"I", "S"})


def reorient(bold: Tensor, axcodes: str = "RAS") -> Tensor:
    """Put the axes of an image into another order and direction; every voxel keeps its value and its place in mm.

    Axes are only swapped and flipped. Those of an oblique image become the nearest to what is asked for, and the
    image stays oblique.

    Args:
        bold: A MetaTensor of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``; a mask or an image is a run of one frame.
        axcodes: Where each axis leads: ``"RAS"`` to the right, to the front (anterior) and up (superior), nibabel's
            order; ``"LAS"`` as the published NeuroSTORM weights expect it.

    Returns:
        A MetaTensor in the layout that was given, with the new affine and otherwise the same meta.

    Raises:
        ValueError: The run has no affine or another shape, or ``axcodes`` names no three axes.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.space.orientation import axcodes_of, reorient
        >>> bold = load_bold(rest_run().bold)
        >>> axcodes_of(bold), axcodes_of(reorient(bold, "LAS"))
        ('RAS', 'LAS')
    """
    return rearrange(bold, orientation_towards(bold, axcodes))


def axcodes_of(image: Tensor) -> str:
    """Say where the axes of an image lead, such as ``"RAS"``; those of an oblique one to the nearest.

    Raises:
        ValueError: The image has no affine.
    """
    return "".join(aff2axcodes(grid_of(image).affine.numpy()))


def orientation_towards(bold: Tensor, axcodes: str) -> NDArray[np.float64]:
    """Give nibabel's orientation array that leads from the axes of an image to others.

    It has a row for each axis of space: the place that it goes to, and -1 for a flip or 1.
    """
    codes = axcodes.upper()
    if len(codes) != 3 or any(len(side & set(codes)) != 1 for side in _OPPOSITES):
        raise ValueError(
            f"axcodes is {axcodes!r}, but it has to name one of L and R, one of P and A and one of I and S, as 'RAS'"
        )
    return ornt_transform(io_orientation(grid_of(bold).affine.numpy()), axcodes2ornt(codes))


def rearrange(bold: Tensor, orientation: NDArray[np.float64]) -> Tensor:
    """Move and flip the axes of space as an orientation array says; the affine follows."""
    time_axis(bold)
    grid = grid_of(bold)
    order = np.argsort(orientation[:, 0])
    flips = [int(axis) + 1 for axis in np.flatnonzero(orientation[order, 1] == -1)]
    values = bold.as_subclass(Tensor).permute(0, *(int(axis) + 1 for axis in order), *range(4, bold.ndim))
    values = values.flip(flips).contiguous()
    affine = grid.affine @ torch.from_numpy(inv_ornt_aff(orientation, grid.shape))
    return with_meta(values, bold, affine=affine)


def reverse(orientation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the orientation array that undoes another."""
    back = np.empty_like(orientation)
    back[orientation[:, 0].astype(int)] = np.column_stack((np.arange(3), orientation[:, 1]))
    return back
