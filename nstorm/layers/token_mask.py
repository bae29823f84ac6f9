"""What all token masks are called with."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from nstorm.layers.mask_drawing import MaskDrawing


class TokenMask(nn.Module, ABC):
    """Hide a share of the tokens of a 4D grid: the masks say in :meth:`hide` which.

    Args:
        ratio: share of what is hidden, 0 or more and below 1.

    Raises:
        ValueError: if the ratio is out of range.
    """

    def __init__(self, ratio: float) -> None:
        super().__init__()
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio {ratio} must be 0 or more and below 1: it is the share of tokens to hide")
        self.ratio = float(ratio)

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
        return self.hide(MaskDrawing.of(shape, brain_tokens, generator, device))

    @abstractmethod
    def hide(self, draw: MaskDrawing) -> Bool[Tensor, "b h w d t"]:
        """Choose what is hidden."""

    def extra_repr(self) -> str:
        """The ratio."""
        return f"ratio={self.ratio}"
