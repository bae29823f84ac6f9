"""Masks of single tokens."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from nstorm.layers.mask_drawing import MaskDrawing, checked_ratio, hide_smallest


class RandomMask(nn.Module):
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

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = checked_ratio(ratio)

    def forward(
        self,
        shape: Sequence[int],
        brain_tokens: Bool[Tensor, "*b h w d"] | None = None,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Bool[Tensor, "b h w d t"]:
        """Draw a mask for each sample, True where a token is hidden.

        Args:
            shape: (B, h, w, d, t), samples and grid of tokens.
            brain_tokens: (h, w, d), or (B, h, w, d) with one for each sample: only these are hidden, and the ratio is
                one of these.
            generator: of the random numbers, for masks that can be drawn again; None for torch's own.
            device: of the mask; by default that of `brain_tokens`, else that of the generator, else the CPU.

        Raises:
            ValueError: if `shape` is none of tokens or `brain_tokens` does not fit it. Also if that is empty in a
                sample, but on the CPU only: elsewhere the question would make the CPU wait, and nothing is hidden.
        """
        draw = MaskDrawing.of(shape, brain_tokens, generator, device)
        keys = draw.keys(*draw.shape[1:])
        return hide_smallest(keys.flatten(1), draw.tokens.flatten(1), self.ratio).view(draw.shape)

    def extra_repr(self) -> str:
        """The ratio."""
        return f"ratio={self.ratio}"
