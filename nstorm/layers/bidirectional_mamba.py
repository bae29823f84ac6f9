"""A Mamba mixer that looks both ways."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nstorm.layers.mamba import MambaMixer

_MERGES = ("sum", "mean", "gate")


class BidirectionalMambaMixer(nn.Module):
    r"""Mix the tokens of sequences by one `MambaMixer` that runs forwards and one that runs backwards.

    The two outputs f and b of a token are merged as f + b (`"sum"`), as (f + b) / 2 (`"mean"`), or by a gate that
    weighs them for every token and channel:

    .. math::
        g = \sigma(W [f; b] + c), \qquad y = g \, f + (1 - g) \, b.

    The gate begins at 1/2, which is the mean. Every output depends on all tokens of its region, so no state can be
    carried from one part of a sequence to the next.

    Args:
        dim: channels of a token.
        shared: let both directions use one set of parameters; with `"sum"` or `"mean"`, reversing the tokens then
            reverses the output. If False, each direction has its own set.
        merge: `"sum"`, `"mean"` or `"gate"`.
        device: where the parameters live.
        dtype: their type, see `MambaMixer`.
        **mamba: further arguments of `MambaMixer`, such as `d_state` or `backend`.

    Raises:
        ValueError: if `merge` is unknown.

    References:
        Zhu et al., "Vision Mamba", arXiv:2401.09417, and Schiff et al., "Caduceus", arXiv:2403.03234: both add the
        directions, which share the outer projections and nothing else. The gate is that of Arevalo et al., "Gated
        Multimodal Units for Information Fusion", arXiv:1702.01992, with directions in place of modalities.

    Example:
        >>> import torch
        >>> from nstorm.layers import BidirectionalMambaMixer
        >>> BidirectionalMambaMixer(dim=24, merge="gate", d_state=8)(torch.randn(2, 63, 24)).shape
        torch.Size([2, 63, 24])
    """

    def __init__(
        self,
        dim: int,
        *,
        shared: bool = False,
        merge: Literal["sum", "mean", "gate"] = "sum",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **mamba: Any,
    ) -> None:
        super().__init__()
        if merge not in _MERGES:
            raise ValueError(f"merge {merge!r} must be one of {_MERGES}")
        self.merge = merge
        self.forwards = MambaMixer(dim, device=device, dtype=dtype, **mamba)
        self.backwards = None if shared else MambaMixer(dim, device=device, dtype=dtype, **mamba)
        self.gate = nn.Linear(2 * dim, dim, device=device, dtype=dtype) if merge == "gate" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise both directions as `MambaMixer` does, and the gate to 1/2."""
        self.forwards.reset_parameters()
        if self.backwards is not None:
            self.backwards.reset_parameters()
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def forward(
        self,
        x: Float[Tensor, "n l c"],
        *,
        token_mask: Bool[Tensor, "n l"] | None = None,
        reset: Bool[Tensor, "n l"] | None = None,
    ) -> Float[Tensor, "n l c"]:
        """Mix tokens (N, L, C) along L, in both directions.

        Args:
            x: tokens.
            token_mask: (N, L), False for tokens to skip: they are absent in both directions, and their output is 0.
            reset: (N, L), True at the first token of each region (the first token of a sequence begins one anyway);
                in neither direction does anything pass from one region to another.
        """
        # Backwards a region begins with its last token, the one before the next region's first.
        anew = None if reset is None else reset.flip(1).roll(1, dims=1)
        kept = None if token_mask is None else token_mask.flip(1)
        one = self.forwards(x, token_mask=token_mask, reset=reset)
        backwards = self.forwards if self.backwards is None else self.backwards
        other = backwards(x.flip(1), token_mask=kept, reset=anew).flip(1)
        if self.gate is not None:
            return torch.lerp(other, one, F.sigmoid(self.gate(torch.cat([one, other], dim=-1))))
        return one + other if self.merge == "sum" else (one + other) / 2
