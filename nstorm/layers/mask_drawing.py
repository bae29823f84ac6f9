"""What the token masks share: the tokens that may be hidden, random keys for them, and hiding the smallest keys.

All of it stays on the device, and nothing is asked of it on the way: how many tokens to hide differs between samples
with brains of their own, so that no tensor may have that size. Tokens are sorted by their keys instead, and those whose
rank is below the sample's number are hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

# A key is unit << TOKEN_BITS | token: the random key of a window or box, then one of the token within it. With 40 bits,
# two of 100,000 units share a key once in 200 masks, and are then hidden together.
UNIT_BITS, TOKEN_BITS = 40, 22
# sorted behind all keys
_LAST = 2**63 - 1


@dataclass(frozen=True, eq=False)
class MaskDrawing:
    """Masks of one batch in the making.

    Attributes:
        shape: (B, h, w, d, t) of the tokens.
        brain: (1, h, w, d) or (B, h, w, d), True for tokens that may be hidden.
        generator: of the random numbers; None for torch's own.
    """

    shape: tuple[int, ...]
    brain: Bool[Tensor, "b h w d"]
    generator: torch.Generator | None

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        brain_tokens: Bool[Tensor, "*b h w d"] | None,
        generator: torch.Generator | None,
        device: torch.device | str | None,
    ) -> "MaskDrawing":
        """Check what a mask is called with, and choose the device.

        Raises:
            ValueError: if the shape is none of tokens, the brain does not fit it or, on the CPU, is empty.
        """
        shape = tuple(int(size) for size in shape)
        if len(shape) != 5 or min(shape) < 1:
            raise ValueError(f"shape {shape} must have five positive entries: samples, h, w, d, t")
        if device is None and brain_tokens is not None:
            device = brain_tokens.device
        elif device is None:
            device = "cpu" if generator is None else generator.device
        space = shape[1:4]
        if brain_tokens is None:
            return cls(shape, torch.ones(1, *space, dtype=torch.bool, device=device), generator)
        if tuple(brain_tokens.shape) not in (space, (1, *space), (shape[0], *space)):
            raise ValueError(
                f"brain_tokens has shape {tuple(brain_tokens.shape)}, expected {space} or {(shape[0], *space)}"
            )
        # as_subclass: MONAI's tensors would do work of their own at every operation
        brain = brain_tokens.as_subclass(Tensor).to(device, torch.bool).reshape(-1, *space)
        check_some(brain, "brain_tokens is empty in a sample: it must be True for the tokens of the brain")
        return cls(shape, brain, generator)

    @property
    def device(self) -> torch.device:
        """Where the masks are made."""
        return self.brain.device

    @property
    def tokens(self) -> Bool[Tensor, "b h w d t"]:
        """The tokens that may be hidden, in every frame."""
        return self.brain[..., None].expand(*self.brain.shape, self.shape[4])

    def keys(self, *size: int, bits: int = UNIT_BITS) -> Int64[Tensor, "b ..."]:
        """Random keys (B, *size)."""
        # a generator of the CPU draws the same masks for every device
        device = self.device if self.generator is None else self.generator.device
        # torch.compile cannot draw sizes that it leaves open where a generator is given, not even with None
        given: dict[str, Any] = {} if self.generator is None else {"generator": self.generator}
        return torch.randint(2**bits, (self.shape[0], *size), device=device, **given).to(self.device)

    def hide_in_order(self, units: Int64[Tensor, "b h w d t"], ratio: float) -> Bool[Tensor, "b h w d t"]:
        """Hide tokens unit by unit, those with the smallest keys first; the last one in part, to be exact."""
        keys = units << TOKEN_BITS | self.keys(*self.shape[1:], bits=TOKEN_BITS)
        return hide_smallest(keys.flatten(1), self.tokens.flatten(1), ratio).view(self.shape)


def hide_smallest(keys: Int64[Tensor, "b n"], among: Bool[Tensor, "b2 n"], ratio: float) -> Bool[Tensor, "b n"]:
    """Of the n things of each sample choose `round(ratio * m)` of the m that stand to choice, by the smallest keys.

    At a ratio above 0, at least one is chosen, and at least one is left where there are two or more: a mask that hides
    nothing has no loss, and one that hides everything leaves nothing to tell it from.
    """
    order = torch.where(among, keys, _LAST).argsort(1)
    # float64: in float32 the product with some 100,000 tokens can be rounded to the other side
    total = among.sum(1, keepdim=True, dtype=torch.float64)
    number = (total * ratio).round()
    if ratio > 0:
        number = number.clamp(min=total.clamp(max=1), max=(total - 1).clamp(min=1))
    first = torch.arange(keys.shape[1], device=keys.device) < number
    return torch.zeros_like(keys, dtype=torch.bool).scatter_(1, order, first.expand_as(order))


def check_some(tokens: Bool[Tensor, "b h w d"], message: str) -> None:
    """Raise a ValueError if a sample has none of the tokens, on the CPU.

    On an accelerator the question would wait for all that is queued there, in every training step.
    """
    if tokens.device.type == "cpu" and not tokens.flatten(1).any(1).all():
        raise ValueError(message)
