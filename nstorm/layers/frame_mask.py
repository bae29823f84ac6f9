"""Masks of whole frames."""

import torch
from jaxtyping import Bool
from torch import Tensor

from nstorm.layers.mask_drawing import MaskDrawing, hide_smallest
from nstorm.layers.token_mask import TokenMask


class FrameMask(TokenMask):
    """Hide whole volumes, in runs of consecutive frames.

    The frames of a clip are cut into spans, the last of which may be shorter. Of the n spans exactly `round(ratio * n)`
    are hidden, but at least one (unless the ratio is 0), and never all of several: a clip that is no longer than one
    span is hidden as a whole. What is hidden must be told from other
    times: a long span asks for the course of the signal, a short one for a blend of the frames around it.

    Args:
        ratio: share of the spans to hide, 0 or more and below 1.
        span: frames (tokens along t) that are hidden together.

    Raises:
        ValueError: if the ratio is out of range or the span below 1.

    Example:
        >>> import torch
        >>> from nstorm.layers import FrameMask
        >>> hidden = FrameMask(0.4, span=4)((2, 5, 6, 5, 20))
        >>> hidden.shape, hidden.all((1, 2, 3)).sum(-1)
        (torch.Size([2, 5, 6, 5, 20]), tensor([8, 8]))
    """

    def __init__(self, ratio: float, span: int = 1) -> None:
        super().__init__(ratio)
        if span < 1:
            raise ValueError(f"span {span} must be 1 or more frames")
        self.span = span

    def hide(self, draw: MaskDrawing) -> Bool[Tensor, "b h w d t"]:
        """Hide the spans with the smallest keys."""
        keys = draw.keys(-(-draw.shape[4] // self.span))
        spans = hide_smallest(keys, torch.ones_like(keys, dtype=torch.bool), self.ratio)
        frames = spans.repeat_interleave(self.span, 1)[:, : draw.shape[4]]
        return draw.tokens & frames[:, None, None, None]

    def extra_repr(self) -> str:
        """Ratio and span."""
        return f"ratio={self.ratio}, span={self.span}"
