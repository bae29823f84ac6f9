"""Values for each frame or each voxel, spread over an image of either layout."""

import torch
from torch import Tensor

from nstorm.data.layout import time_axis
from nstorm.data.normalize import voxels_inside


def as_float(img: Tensor) -> Tensor:
    """View an image as a plain tensor of float32, or float64 where it is; other types are copied.

    Raises:
        ValueError: The image has neither layout.
    """
    time_axis(img)
    return img.as_subclass(Tensor).to(torch.promote_types(img.dtype, torch.float32))


def over_time(values: Tensor, img: Tensor) -> Tensor:
    """View one value for each frame such that it broadcasts over an image."""
    return values.view(-1, 1, 1, 1) if time_axis(img) == 0 else values


def over_space(values: Tensor, img: Tensor) -> Tensor:
    """View one value for each voxel, ``(H, W, D)``, such that it broadcasts over an image."""
    return values[None] if time_axis(img) == 0 else values[None, ..., None]


def in_mask(mask: Tensor, img: Tensor) -> Tensor:
    """View a mask such that it broadcasts over an image.

    Raises:
        ValueError: The mask is not boolean, is empty, or is on another grid.
    """
    return over_space(voxels_inside(img, mask), img)
