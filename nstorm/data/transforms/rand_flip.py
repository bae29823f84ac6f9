"""Random mirroring of left and right."""

from typing import Any

import numpy as np
import torch
from nibabel.orientations import io_orientation
from torch import Tensor

from nstorm.data.layout import time_axis
from nstorm.data.space.grid import grid_of
from nstorm.data.time.timing import with_meta
from nstorm.data.transforms.base import InvertibleOnKeys, InvertibleRandBOLDTransform, RandOnKeys


class RandFlipLR(InvertibleRandBOLDTransform):
    """Mirror the brain from left to right, along the axis of the array that the affine says runs so.

    Left and right are not the same brain: language, hand areas and many diseases have a side. Use it only where
    the task does not, and never with labels that name a side.

    The affine of the result says which side is which, as MONAI's flips do, so that atlases and saved images stay
    right. A transform that reorders axes by affine after this one would undo it.

    Args:
        prob: Probability that the image is mirrored.

    Raises:
        ValueError: The image is a plain tensor, whose left and right nobody knows, or has neither layout.

    Example:
        >>> import torch
        >>> from monai.data.meta_tensor import MetaTensor
        >>> from nstorm.data.transforms.rand_flip import RandFlipLR
        >>> mirrored = RandFlipLR(prob=1.0)(MetaTensor(torch.arange(3.0).view(1, 3, 1, 1), affine=torch.eye(4)))
        >>> mirrored.flatten().tolist(), mirrored.affine[0].tolist()
        ([2.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 2.0])
    """

    def __init__(self, prob: float = 0.5) -> None:
        super().__init__(prob)

    def draw(self, img: Tensor) -> None:
        """Nothing is drawn beside whether to mirror."""

    def apply(self, img: Tensor) -> Tensor:
        """Mirror an image."""
        time_axis(img)
        affine = grid_of(img).affine.numpy()
        axis = int(np.flatnonzero(io_orientation(affine)[:, 0] == 0)[0])
        mirror = np.eye(4)
        mirror[axis, [axis, 3]] = -1, img.shape[1 + axis] - 1
        return with_meta(img.as_subclass(Tensor).flip(1 + axis), img, affine=torch.from_numpy(affine @ mirror))

    def undo(self, img: Tensor, trace: dict[str, Any]) -> Tensor:
        """Mirror an image back."""
        return self.apply(img)


class RandFlipLRd(RandOnKeys, InvertibleOnKeys):
    """Dictionary form of :class:`RandFlipLR`: all keys are mirrored, or none."""

    array_class = RandFlipLR
