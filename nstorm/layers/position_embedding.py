"""Learned position embedding of 4D tokens, separable in space and time."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PositionEmbedding4D(nn.Module):
    """Add a learned vector per place and a learned vector per frame to every token.

    A clip shorter than the embedding uses its first frames.

    Args:
        dim: channels of a token.
        grid_size: tokens along h, w, d and the largest number of tokens along t.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ValueError: in `forward`, if the grid differs in space or is longer in time.

    References:
        Kim et al., "SwiFT", arXiv:2307.05916.

    Example:
        >>> import torch
        >>> from nstorm.layers import PositionEmbedding4D
        >>> embed = PositionEmbedding4D(36, grid_size=(4, 5, 4, 20))
        >>> embed(torch.randn(2, 36, 4, 5, 4, 7)).shape
        torch.Size([2, 36, 4, 5, 4, 7])
    """

    def __init__(
        self,
        dim: int,
        grid_size: Sequence[int],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        h, w, d, t = grid_size
        self.spatial = nn.Parameter(torch.empty(1, dim, h, w, d, 1, device=device, dtype=dtype))
        self.temporal = nn.Parameter(torch.empty(1, dim, 1, 1, 1, t, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both embeddings from a truncated normal of standard deviation 0.02."""
        nn.init.trunc_normal_(self.spatial, std=0.02)
        nn.init.trunc_normal_(self.temporal, std=0.02)

    def forward(self, x: Float[Tensor, "b c h w d t"]) -> Float[Tensor, "b c h w d t"]:
        """Add the embeddings to tokens (B, C, H, W, D, T)."""
        grid = (*self.spatial.shape[2:5], self.temporal.shape[5])
        num_frames = x.shape[-1]
        if x.shape[2:5] != grid[:3] or num_frames > grid[3]:
            raise ValueError(
                f"tokens on the grid {tuple(x.shape[2:])} do not fit the position embedding for {grid}: "
                "space must be equal and time at most as long; build it with a grid_size that fits"
            )
        return x + self.spatial + self.temporal[..., :num_frames]
