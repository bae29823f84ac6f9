"""NeuroSTORM: a shifted-window Mamba encoder that works directly on 4D fMRI."""

from collections.abc import Sequence
from typing import Any

from nstorm.layers import MambaMixer
from nstorm.nets.shifted_window_net import ShiftedWindowNet


class NeuroSTORM(ShiftedWindowNet):
    """The shifted-window net around `MambaMixer`; the defaults are the published model of 5,173,020 parameters.

    Args:
        img_size: voxels along h, w, d and the largest number of frames of a clip.
        kwargs: the other arguments of `ShiftedWindowNet`.

    References:
        "Towards a general-purpose foundation model for fMRI analysis" (NeuroSTORM), arXiv:2506.11167.

    Example:
        >>> import torch
        >>> from nstorm.nets import NeuroSTORM
        >>> net = NeuroSTORM((24, 24, 24, 8), feature_size=12, depths=(1, 1), num_classes=2)
        >>> net(torch.randn(1, 1, 24, 24, 24, 6)).shape
        torch.Size([1, 2])
    """

    def __init__(self, img_size: Sequence[int] = (96, 96, 96, 20), **kwargs: Any) -> None:
        super().__init__(img_size, **{"mixer": MambaMixer} | kwargs)
