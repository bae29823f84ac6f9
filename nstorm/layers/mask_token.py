"""Learned tokens in place of hidden ones."""

from collections.abc import Sequence
from math import prod

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nstorm.layers.sizes import checked_sizes


class MaskToken(nn.Module):
    """Replace hidden tokens by a learned vector: one for all, or one for each place in a window.

    Args:
        dim: channels of a token.
        window_size: tokens of a window along h, w, d, t. Each place in it, t fastest, gets its own vector, repeated
            over the grid, as the published `window_mask_token` (and the `mask_token` of the released weights, which is
            the same); None for one vector.
        device: where the parameters live.
        dtype: their type.

    Attributes:
        value: (dim,), or (prod(window_size), dim).

    Raises:
        ValueError: if a size is out of range.

    References:
        Xie et al., "SimMIM", arXiv:2111.09886; "NeuroSTORM", arXiv:2506.11167.

    Example:
        >>> import torch
        >>> from nstorm.layers import MaskToken, RandomMask
        >>> tokens = torch.randn(2, 36, 5, 6, 5, 20)
        >>> hidden = RandomMask(0.5)((2, 5, 6, 5, 20))
        >>> MaskToken(36)(tokens, hidden).shape
        torch.Size([2, 36, 5, 6, 5, 20])
        >>> MaskToken(36, window_size=(4, 4, 4, 4)).value.shape
        torch.Size([256, 36])
    """

    def __init__(
        self,
        dim: int,
        window_size: Sequence[int] | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.window_size = None if window_size is None else checked_sizes("window_size", window_size)
        size = (dim,) if self.window_size is None else (prod(self.window_size), dim)
        self.value = nn.Parameter(torch.empty(size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the value from a truncated normal of standard deviation 0.02."""
        nn.init.trunc_normal_(self.value, std=0.02)

    def forward(
        self, tokens: Float[Tensor, "b c h w d t"], hidden: Bool[Tensor, "b h w d t"]
    ) -> Float[Tensor, "b c h w d t"]:
        """Map tokens (B, C, H, W, D, T) to the same, with those replaced where `hidden` (B, H, W, D, T) is True."""
        # in the type of the tokens: half precision under autocast stays that
        value = self._on_grid(tokens.shape[2:]).to(tokens.dtype)
        return torch.where(hidden[:, None], value, tokens)

    def _on_grid(self, grid: Sequence[int]) -> Float[Tensor, "c h w d t"]:
        """The value at every place of a grid, or one place for all where it is the same."""
        if self.window_size is None:
            return self.value.view(-1, 1, 1, 1, 1)
        h, w, d, t = self.window_size
        # Channels last, as what `PatchEmbed4D` gives lies in memory, four times as fast. Repeated and cut, not indexed:
        # the gradients of repetitions are summed without atomic additions.
        value = rearrange(self.value, "(h w d t) c -> h w d t c", h=h, w=w, d=d, t=t)
        repeats = [-(-length // size) for length, size in zip(grid, self.window_size, strict=True)]
        tiled = value.repeat(*repeats, 1)[: grid[0], : grid[1], : grid[2], : grid[3]]
        return rearrange(tiled, "h w d t c -> c h w d t")

    def extra_repr(self) -> str:
        """Channels and window size."""
        return f"{self.dim}, window_size={self.window_size}"
