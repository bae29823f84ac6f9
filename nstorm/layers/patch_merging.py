"""Patch merging: halves the spatial grid of 4D tokens."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class PatchMerging4D(nn.Module):
    """Join the 2 x 2 x 2 neighbours of a token in space, normalise, and reduce their channels. Time is kept.

    Neighbours are concatenated in the order of `itertools.product` over (h, w, d). A spatial axis of odd size is
    padded with zeros at its end.

    Args:
        dim: channels of a token.
        out_dim: channels of a merged token; 2 * dim if None.
        device: where the parameters live.
        dtype: their type.

    References:
        Liu et al., "Swin Transformer", arXiv:2103.14030, section 3.1; Kim et al., "SwiFT", arXiv:2307.05916.

    Example:
        >>> import torch
        >>> from nstorm.layers import PatchMerging4D
        >>> PatchMerging4D(36)(torch.randn(2, 16, 15, 16, 7, 36)).shape
        torch.Size([2, 8, 8, 8, 7, 72])
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8 * dim, device=device, dtype=dtype)
        self.reduction = nn.Linear(8 * dim, out_dim or 2 * dim, bias=False, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight from a truncated normal of standard deviation 0.02, reset the norm."""
        nn.init.trunc_normal_(self.reduction.weight, std=0.02)
        self.norm.reset_parameters()

    def forward(self, x: Float[Tensor, "b h w d t c"]) -> Float[Tensor, "b mh mw md t c_out"]:
        """Map (B, H, W, D, T, C) to (B, H/2, W/2, D/2, T, C_out)."""
        odd = [size % 2 for size in x.shape[1:4]]
        if any(odd):
            x = F.pad(x, [0, 0, 0, 0, 0, odd[2], 0, odd[1], 0, odd[0]])
        x = rearrange(x, "b (h i) (w j) (d k) t c -> b h w d t (i j k c)", i=2, j=2, k=2)
        return self.reduction(self.norm(x))
