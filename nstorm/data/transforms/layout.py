"""The one way between ``(T, H, W, D)`` and ``(1, H, W, D, T)``, as transforms."""

from monai.data.meta_tensor import MetaTensor
from monai.transforms.inverse import InvertibleTransform
from torch import Tensor

from nstorm.data.layout import time_first, time_last
from nstorm.data.time.timing import with_meta
from nstorm.data.transforms.base import BOLDTransform, InvertibleOnKeys


class TimeToLast(BOLDTransform, InvertibleTransform):
    """Turn ``(T, H, W, D)``, where spatial transforms work, into ``(1, H, W, D, T)``, which networks take.

    The result is contiguous, so that what follows reads a voxel's frames side by side. An image that has this layout
    stays as it is.

    Raises:
        ValueError: The image has neither layout.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms import TimeToLast
        >>> TimeToLast()(torch.zeros(20, 4, 5, 6)).shape
        torch.Size([1, 4, 5, 6, 20])
    """

    def __call__(self, img: Tensor) -> Tensor:
        """Move time to the last axis."""
        moved = with_meta(time_last(img.as_subclass(Tensor)).contiguous(), img)
        if isinstance(moved, MetaTensor):
            self.push_transform(moved, orig_size=tuple(img.shape), extra_info={"time_was_first": img.ndim == 4})
        return moved

    def inverse(self, img: Tensor) -> Tensor:
        """Move time back to where it was; a tensor without a trace gets it first."""
        was_first = self.pop_transform(img)["extra_info"]["time_was_first"] if isinstance(img, MetaTensor) else True
        return time_first(img).contiguous() if was_first else img


class TimeToFirst(BOLDTransform, InvertibleTransform):
    """Turn ``(1, H, W, D, T)`` into ``(T, H, W, D)``, for spatial work after temporal work.

    The result is contiguous. An image that has this layout stays as it is.

    Raises:
        ValueError: The image has neither layout, or more than one channel.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms import TimeToFirst
        >>> TimeToFirst()(torch.zeros(1, 4, 5, 6, 20)).shape
        torch.Size([20, 4, 5, 6])
    """

    def __call__(self, img: Tensor) -> Tensor:
        """Move time to the first axis."""
        moved = with_meta(time_first(img.as_subclass(Tensor)).contiguous(), img)
        if isinstance(moved, MetaTensor):
            self.push_transform(moved, orig_size=tuple(img.shape), extra_info={"time_was_first": img.ndim == 4})
        return moved

    def inverse(self, img: Tensor) -> Tensor:
        """Move time back to where it was; a tensor without a trace gets it last."""
        was_first = self.pop_transform(img)["extra_info"]["time_was_first"] if isinstance(img, MetaTensor) else False
        return img if was_first else time_last(img).contiguous()


class TimeToLastd(InvertibleOnKeys):
    """Dictionary form of :class:`TimeToLast`."""

    array_class = TimeToLast


class TimeToFirstd(InvertibleOnKeys):
    """Dictionary form of :class:`TimeToFirst`."""

    array_class = TimeToFirst
