"""Where time is: ``(T, H, W, D)`` for spatial work, ``(1, H, W, D, T)`` for temporal work and for networks.

MONAI's spatial transforms take the first axis for channels and treat all channels alike, which is right for
``(T, H, W, D)``. On ``(1, H, W, D, T)`` they raise, or mix time into space. The number of axes tells the two apart.
"""

import torch
from torch import Tensor


def time_axis(bold: Tensor) -> int:
    """Find the axis of time: 0 of ``(T, H, W, D)``, 4 of ``(C, H, W, D, T)``.

    Raises:
        ValueError: The tensor has another number of axes.

    Example:
        >>> import torch
        >>> from nstorm.data import time_axis
        >>> time_axis(torch.zeros(20, 4, 5, 6)), time_axis(torch.zeros(1, 4, 5, 6, 20))
        (0, 4)
    """
    if bold.ndim not in (4, 5):
        raise ValueError(
            f"bold has shape {tuple(bold.shape)}, but a run or a clip is (T, H, W, D) or (1, H, W, D, T): "
            "time comes first, or after a channel and space"
        )
    return 0 if bold.ndim == 4 else 4


def time_first(bold: Tensor) -> Tensor:
    """View a run as ``(T, H, W, D)``, whichever of the two layouts it has; a MetaTensor keeps its meta.

    Raises:
        ValueError: The tensor has neither layout, or more than one channel.

    Example:
        >>> import torch
        >>> from nstorm.data import time_first
        >>> time_first(torch.zeros(1, 4, 5, 6, 20)).shape
        torch.Size([20, 4, 5, 6])
    """
    if time_axis(bold) == 0:
        return bold
    if bold.shape[0] != 1:
        raise ValueError(
            f"bold has shape {tuple(bold.shape)} with {bold.shape[0]} channels, but time can only take the place of "
            "one channel: split the channels first"
        )
    return bold[0].movedim(-1, 0)


def time_last(bold: Tensor) -> Tensor:
    """View a run as ``(1, H, W, D, T)``, whichever of the two layouts it has; a MetaTensor keeps its meta.

    Raises:
        ValueError: The tensor has neither layout.

    Example:
        >>> import torch
        >>> from nstorm.data import time_last
        >>> time_last(torch.zeros(20, 4, 5, 6)).shape
        torch.Size([1, 4, 5, 6, 20])
    """
    return bold if time_axis(bold) == 4 else bold.movedim(0, -1)[None]


def with_layout(frames: Tensor, like: Tensor) -> Tensor:
    """Give frames ``(T, H, W, D)`` the layout of a run, contiguous; a MetaTensor keeps its meta."""
    return frames if time_axis(like) == 0 else time_last(frames).contiguous()


def as_float(bold: Tensor) -> Tensor:
    """View a run as a plain tensor of float32, or float64 where it is; other types are copied.

    Raises:
        ValueError: The tensor has neither layout.
    """
    time_axis(bold)
    # The sum of a few 16-bit values already leaves float16.
    return bold.as_subclass(Tensor).to(torch.promote_types(bold.dtype, torch.float32))


def over_time(values: Tensor, bold: Tensor) -> Tensor:
    """View one value for each frame such that it broadcasts over a run."""
    return values.view(-1, 1, 1, 1) if time_axis(bold) == 0 else values


def over_space(values: Tensor, bold: Tensor) -> Tensor:
    """View one value for each voxel, ``(H, W, D)``, such that it broadcasts over a run."""
    return values[None] if time_axis(bold) == 0 else values[None, ..., None]
