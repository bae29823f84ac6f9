"""Patch expanding: doubles the spatial grid of 4D tokens."""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class PatchExpanding4D(nn.Module):
    """Map a token linearly to its 2 x 2 x 2 children in space, and normalise each. Time is kept.

    It goes the way of `PatchMerging4D` back: the children stand in the order of `itertools.product` over (h, w, d).

    Args:
        dim: channels of a token.
        out_dim: channels of a child; dim / 2 if None.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ValueError: if `dim` is odd and `out_dim` is None; in `forward`, if `out_grid` is no grid that merges into
            that of the tokens.

    References:
        Cao et al., "Swin-Unet", arXiv:2105.05537; the decoder of the published NeuroSTORM autoencoder.

    Example:
        >>> import torch
        >>> from nstorm.layers import PatchMerging4D
        >>> from nstorm.layers.patch_expanding import PatchExpanding4D
        >>> merged = PatchMerging4D(36)(torch.randn(2, 16, 15, 16, 7, 36))
        >>> PatchExpanding4D(72)(merged).shape
        torch.Size([2, 16, 16, 16, 7, 36])
        >>> PatchExpanding4D(72)(merged, out_grid=(16, 15, 16)).shape
        torch.Size([2, 16, 15, 16, 7, 36])
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
        if out_dim is None:
            if dim % 2:
                raise ValueError(f"dim {dim} is odd and has no half: give out_dim")
            out_dim = dim // 2
        self.expand = nn.Linear(dim, 8 * out_dim, bias=False, device=device, dtype=dtype)
        self.norm = nn.LayerNorm(out_dim, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight from a truncated normal of standard deviation 0.02, reset the norm."""
        nn.init.trunc_normal_(self.expand.weight, std=0.02)
        self.norm.reset_parameters()

    def forward(
        self, x: Float[Tensor, "b h w d t c"], out_grid: Sequence[int] | None = None
    ) -> Float[Tensor, "b eh ew ed t c_out"]:
        """Map (B, H, W, D, T, C) to (B, 2H, 2W, 2D, T, C_out), cropped at the end of each axis to `out_grid` (h, w, d).

        `out_grid` is the grid before `PatchMerging4D`, which pads an axis of odd size.
        """
        doubled = tuple(2 * size for size in x.shape[1:4])
        grid = doubled if out_grid is None else tuple(out_grid)
        if len(grid) != 3 or any(size not in (full, full - 1) for size, full in zip(grid, doubled, strict=True)):
            raise ValueError(f"out_grid {grid} must be {doubled}, or one less on an axis that was odd before merging")
        x = rearrange(self.expand(x), "b h w d t (i j k c) -> b (h i) (w j) (d k) t c", i=2, j=2, k=2)
        h, w, d = grid
        return self.norm(x[:, :h, :w, :d])
