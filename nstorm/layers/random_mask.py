"""Masks of single tokens."""

from jaxtyping import Bool
from torch import Tensor

from nstorm.layers.mask_drawing import MaskDrawing, hide_smallest
from nstorm.layers.token_mask import TokenMask


class RandomMask(TokenMask):
    """Hide tokens of a 4D grid one by one, each as likely as the other.

    Of the n tokens of a sample exactly `round(ratio * n)` are hidden, but at least one, and never all of several (as
    with every mask, unless its ratio is 0). The neighbours of a hidden token in space and
    time mostly stay visible, and since BOLD is smooth in both, it can be filled in from them: `WindowMask`, `TubeMask`
    and `BlockMask` ask for more.

    Args:
        ratio: share of the tokens to hide, 0 or more and below 1.

    Raises:
        ValueError: if the ratio is out of range.

    References:
        Xie et al., "SimMIM", arXiv:2111.09886.

    Example:
        >>> import torch
        >>> from nstorm.layers import RandomMask
        >>> hidden = RandomMask(0.6)((2, 5, 6, 5, 20))
        >>> hidden.shape, hidden.sum((1, 2, 3, 4))
        (torch.Size([2, 5, 6, 5, 20]), tensor([1800, 1800]))
    """

    def hide(self, draw: MaskDrawing) -> Bool[Tensor, "b h w d t"]:
        """Hide the tokens with the smallest keys."""
        keys = draw.keys(*draw.shape[1:])
        return hide_smallest(keys.flatten(1), draw.tokens.flatten(1), self.ratio).view(draw.shape)
