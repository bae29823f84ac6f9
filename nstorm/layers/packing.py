"""Sequences with skipped tokens as one sequence without them."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nstorm.scan.token_map import take_tokens


def on_packed(
    function: Callable[[Tensor, Tensor], Tensor],
    x: Float[Tensor, "n l c"],
    token_mask: Bool[Tensor, "n l"],
    reset: Bool[Tensor, "n l"] | None,
) -> Float[Tensor, "n l c_out"]:
    """Run a function of (tokens, reset) on the tokens that are not skipped, one sequence after the other.

    Resets mark where each sequence began, and where one was marked in it, on a skipped token too. What comes out at
    skipped tokens is 0.
    """
    flat = token_mask.flatten()
    begins = torch.zeros_like(token_mask) if reset is None else reset.clone()
    begins[:, :1] = True
    region = begins.flatten().cumsum(0)
    kept, skipped = flat.nonzero()[:, 0], (~flat).nonzero()[:, 0]
    places = (flat.cumsum(0) - 1).clamp(min=0)
    packed = take_tokens(x.reshape(1, -1, x.shape[-1]), kept, None, places, skipped)
    starts = torch.diff(region[kept], prepend=region.new_zeros(1)) != 0
    y = function(packed, starts[None])
    return take_tokens(y, places, skipped, kept, None).reshape(*x.shape[:2], -1)
