"""Masks of places over a whole clip."""

from jaxtyping import Bool
from torch import Tensor

from nstorm.layers.mask_drawing import MaskDrawing, hide_smallest
from nstorm.layers.token_mask import TokenMask


class TubeMask(TokenMask):
    """Hide columns of tokens: places in space, over the whole clip.

    Of the n places of a sample exactly `round(ratio * n)` are hidden, but at least one (unless the ratio is 0),
    and never all of several. A hidden token cannot be read off the frame
    before or after it; it must be told from other places. (The published code's tube masks crash, and its tubes were
    to be 4 frames long; `WindowMask(ratio, (1, 1, 1, 4))` hides such pieces.)

    Args:
        ratio: share of the places to hide, 0 or more and below 1.

    Raises:
        ValueError: if the ratio is out of range.

    References:
        Tong et al., "VideoMAE", arXiv:2203.12602.

    Example:
        >>> import torch
        >>> from nstorm.layers import TubeMask
        >>> hidden = TubeMask(0.9)((2, 5, 6, 5, 20))
        >>> hidden.shape, hidden[..., 0].sum((1, 2, 3)), hidden.all(-1).sum((1, 2, 3))
        (torch.Size([2, 5, 6, 5, 20]), tensor([135, 135]), tensor([135, 135]))
    """

    def hide(self, draw: MaskDrawing) -> Bool[Tensor, "b h w d t"]:
        """Hide the places with the smallest keys."""
        keys = draw.keys(*draw.shape[1:4])
        places = hide_smallest(keys.flatten(1), draw.brain.flatten(1), self.ratio)
        return places.view(*keys.shape, 1).expand(draw.shape).contiguous()
