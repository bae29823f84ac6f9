"""Where the voxels of the brain lie on a grid, as stored, or cut or filled to another size."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.space.crop_or_pad import crop_or_pad

Size = int | Sequence[int]


@dataclass(frozen=True, eq=False)
class Placement:
    """A grid, and where on it the voxels of the brain lie.

    Attributes:
        shape: Of the grid.
        affine: From its voxel indices to mm, 4x4 float64.
        places: Index in C order of each voxel of the brain ``(V,)``; -1 for those that are cut off.
    """

    shape: tuple[int, int, int]
    affine: Tensor
    places: NDArray[np.int32]

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The brain, ``(H, W, D)``."""
        mask = np.zeros(self.shape, bool)
        mask.reshape(-1)[self.places[self.places >= 0]] = True
        return mask


def placed(mask: NDArray[np.bool_], affine: Tensor, size: Size | None) -> Placement:
    """Say where the voxels of a mask come to lie when :func:`nstorm.data.crop_or_pad` gives it a size.

    Raises:
        ValueError: A size is below 1, or no voxel of the mask is left.
    """
    stored = np.flatnonzero(mask)
    if size is None:
        return Placement(mask.shape, affine, stored.astype(np.int32))
    from monai.data.meta_tensor import MetaTensor

    numbers = np.zeros(mask.shape, np.int32)
    numbers.reshape(-1)[stored] = np.arange(1, len(stored) + 1)
    moved = crop_or_pad(MetaTensor(torch.from_numpy(numbers)[None], affine=affine), size)
    found = moved.as_subclass(Tensor)[0].numpy()
    there = np.flatnonzero(found)
    if not len(there):
        raise ValueError(f"size is {size}, in which no voxel of the brain is left: give a larger one")
    places = np.full(len(stored), -1, np.int32)
    places[found.reshape(-1)[there] - 1] = there
    return Placement(found.shape, moved.affine, places)  # type: ignore[attr-defined]
