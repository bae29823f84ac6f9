"""Where time is: ``(T, H, W, D)`` for spatial work, ``(1, H, W, D, T)`` for temporal work and for networks.

MONAI's spatial transforms take the first axis for channels and treat all channels alike, which is right for
``(T, H, W, D)``. On ``(1, H, W, D, T)`` they raise, or mix time into space. The number of axes tells the two apart.
"""

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
