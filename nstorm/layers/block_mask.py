"""Masks of boxes at random places."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor

from nstorm.layers.mask_drawing import UNIT_BITS, MaskDrawing
from nstorm.layers.sizes import checked_sizes_or_axes, sizes_on_grid
from nstorm.layers.token_mask import TokenMask

# larger than any box's key, and still exact as the float that F.pad takes
_NO_BOX = 2**UNIT_BITS


class BlockMask(TokenMask):
    """Hide boxes of tokens at random places in space and time.

    Unlike windows, boxes begin anywhere and may overlap, so that what is hidden has no fixed borders for a net with
    windows to learn. Boxes are hidden in a random order until `round(ratio * n)` of the sample's n tokens are: of the
    last box only as many tokens as are missing, at random. At least one token is hidden (unless the ratio is 0), and
    never all of several.

    There is one box around every token, or every token of the brain if one is given, and all come equally likely
    first. One that would stick out of the grid is moved inside. So tokens are not hidden equally often: those at the
    surface of a brain, around which fewer boxes lie, about half as often as those in its depth at small ratios.

    Args:
        ratio: share of the tokens to hide, 0 or more and below 1.
        block_size: tokens of a box along h, w, d, t; None for a whole axis.

    Raises:
        ValueError: if the ratio or a size is out of range.

    References:
        Bao et al., "BEiT" (blocks of an image), arXiv:2106.08254.

    Example:
        >>> import torch
        >>> from nstorm.layers import BlockMask
        >>> hidden = BlockMask(0.5, block_size=(3, 3, 3, None))((2, 5, 6, 5, 20))
        >>> hidden.shape, hidden.sum((1, 2, 3, 4))
        (torch.Size([2, 5, 6, 5, 20]), tensor([1500, 1500]))
    """

    def __init__(self, ratio: float, block_size: Sequence[int | None] = (4, 4, 4, 4)) -> None:
        super().__init__(ratio)
        self.block_size = checked_sizes_or_axes("block_size", block_size)

    def hide(self, draw: MaskDrawing) -> Bool[Tensor, "b h w d t"]:
        """Hide boxes in the order of their keys."""
        boxes = torch.where(draw.tokens, draw.keys(*draw.shape[1:]), _NO_BOX)
        for axis, size in enumerate(sizes_on_grid(self.block_size, draw.shape[1:]), 1):
            boxes = _smallest_around(boxes, axis, size)
        return draw.hide_in_order(boxes, self.ratio)

    def extra_repr(self) -> str:
        """Ratio and block size."""
        return f"ratio={self.ratio}, block_size={self.block_size}"


def _smallest_around(keys: Int64[Tensor, "b h w d t"], axis: int, size: int) -> Int64[Tensor, "b h w d t"]:
    """Spread keys of boxes, given where their centres are, over the boxes along one axis; the smallest key wins.

    Done along each axis in turn, it is the smallest key of all boxes that cover a token.
    """
    length = keys.shape[axis]
    before, begins = size // 2, length - size + 1
    # keys by where the boxes begin: those around the ends of the axis are moved to the first and the last place
    head = keys.narrow(axis, 0, before + 1).amin(axis, keepdim=True)
    tail = keys.narrow(axis, before + begins - 1, length - before - begins + 1).amin(axis, keepdim=True)
    if begins == 1:
        return torch.minimum(head, tail).expand_as(keys)
    middle = keys.narrow(axis, before + 1, begins - 2)
    pad = [0, 0] * (4 - axis) + [size - 1, size - 1]
    keys = F.pad(torch.cat([head, middle, tail], axis), pad, value=_NO_BOX)
    # a place is covered by the boxes that begin there or up to size - 1 places before
    smallest = keys.narrow(axis, 0, length)
    for offset in range(1, size):
        smallest = torch.minimum(smallest, keys.narrow(axis, offset, length))
    return smallest
