"""Masks of whole windows."""

from collections.abc import Sequence

from jaxtyping import Bool, Int64
from torch import Tensor

from nstorm.layers.mask_drawing import MaskDrawing
from nstorm.layers.sizes import checked_sizes_or_axes, sizes_on_grid
from nstorm.layers.token_mask import TokenMask


class WindowMask(TokenMask):
    """Hide whole windows of the grid that unshifted windows cut it into, as NeuroSTORM was pre-trained.

    Windows are hidden in a random order until `round(ratio * n)` of the sample's n tokens are: of the last window only
    as many tokens as are missing, at random. At least one token is hidden (unless the ratio is 0), and never all of
    several. Where all windows hold equally many and the ratio fits, every window is hidden or visible as a whole. At
    the end of an axis that is no multiple of the window, windows are cut off; so are those at the border of the brain,
    if one is given.

    An unshifted block of `ShiftedWindowBlock` with the same window size sees nothing but hidden tokens in a hidden
    window: only shifted blocks and later stages bring something in.

    Args:
        ratio: share of the tokens to hide, 0 or more and below 1; the released weights were trained with 0.5 and 0.8.
        window_size: tokens of a window along h, w, d, t; None for a whole axis.

    Raises:
        ValueError: if the ratio or a size is out of range.

    References:
        "NeuroSTORM", arXiv:2506.11167; Xie et al., "SimMIM" (patches larger than a token), arXiv:2111.09886.

    Example:
        >>> import torch
        >>> from nstorm.layers import WindowMask
        >>> hidden = WindowMask(0.5, window_size=(4, 4, 4, 4))((2, 8, 8, 8, 20))
        >>> hidden.shape, hidden[:, ::4, ::4, ::4, ::4].sum((1, 2, 3, 4))
        (torch.Size([2, 8, 8, 8, 20]), tensor([20, 20]))
    """

    def __init__(self, ratio: float, window_size: Sequence[int | None] = (4, 4, 4, 4)) -> None:
        super().__init__(ratio)
        self.window_size = checked_sizes_or_axes("window_size", window_size)

    def hide(self, draw: MaskDrawing) -> Bool[Tensor, "b h w d t"]:
        """Hide windows in the order of their keys."""
        return draw.hide_in_order(_window_keys(draw, self.window_size), self.ratio)

    def extra_repr(self) -> str:
        """Ratio and window size."""
        return f"ratio={self.ratio}, window_size={self.window_size}"


def _window_keys(draw: MaskDrawing, window_size: Sequence[int | None]) -> Int64[Tensor, "b h w d t"]:
    """The key of a token's window, at every token."""
    grid = draw.shape[1:]
    window = sizes_on_grid(window_size, grid)
    keys = draw.keys(*(-(-length // size) for length, size in zip(grid, window, strict=True)))
    for axis, (length, size) in enumerate(zip(grid, window, strict=True), 1):
        keys = keys.repeat_interleave(size, axis).narrow(axis, 0, length)
    return keys
