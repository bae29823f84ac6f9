"""SwiFT: a shifted-window transformer for 4D fMRI."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from nstorm.layers import WindowAttention
from nstorm.nets.arguments import keeps_arguments
from nstorm.nets.shifted_window_net import ShiftedWindowNet


@keeps_arguments
class SwiFT(ShiftedWindowNet):
    """The shifted-window net around `WindowAttention`: 4,314,636 parameters without a head.

    That is the model published beside NeuroSTORM; the original SwiFT normalises the last stage's tokens too
    (`final_norm=True`, 4,315,212 parameters). Attention keeps regions of shifted windows apart, and leaves out
    padding, which the published code attends to where a grid is no multiple of its window.

    Args:
        img_size: voxels along h, w, d and the largest number of frames of a clip.
        num_heads: heads of attention, one number per stage.
        kwargs: the other arguments of `ShiftedWindowNet` but for `mixer`.

    References:
        Kim et al., "SwiFT: Swin 4D fMRI Transformer", arXiv:2307.05916.

    Example:
        >>> import torch
        >>> from nstorm.nets import SwiFT
        >>> net = SwiFT((24, 24, 24, 8), num_heads=(3, 6), feature_size=12, depths=(1, 1), num_classes=2)
        >>> net(torch.randn(1, 1, 24, 24, 24, 6)).shape
        torch.Size([1, 2])
    """

    def __init__(
        self, img_size: Sequence[int] = (96, 96, 96, 20), num_heads: Sequence[int] = (3, 6, 12, 24), **kwargs: Any
    ) -> None:
        stages = len(kwargs.get("depths", (2, 2, 6, 2)))
        if len(num_heads) != stages:
            raise ValueError(
                f"num_heads {tuple(num_heads)} has {len(num_heads)} entries, expected one per stage: {stages}"
            )
        mixers = [partial(WindowAttention, num_heads=number) for number in num_heads]
        super().__init__(img_size, mixer=mixers, **{"boundary": "reset"} | kwargs)
