"""Fixed position embedding of 4D tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nstorm.layers.sincos import SinCos


class SinCosPositionEmbedding4D(nn.Module):
    """Add sines and cosines of a token's place (h, w, d) and frame t, on a grid of any size. Nothing is learned.

    The dim / 2 periods are dealt to h, w, d and t, evenly but for a remainder that goes to the first axes. The
    channels of an axis hold its sines, then its cosines. Positions are counted in tokens from the start of the axis;
    for time in seconds see `TimeEmbedding`.

    Args:
        dim: channels of a token, even and at least 8: a sine and a cosine for each axis.
        min_period: shortest period in tokens.
        max_period: longest period in tokens. The default spans fMRI's grids; the 10,000 of language models would
            leave most channels constant on them.

    Raises:
        ValueError: if `dim` is odd or less than 8, or if the periods are not positive or out of order.

    References:
        Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, section 3.5.

    Example:
        >>> import torch
        >>> from nstorm.layers.sincos_position_embedding import SinCosPositionEmbedding4D
        >>> SinCosPositionEmbedding4D(36)(torch.randn(2, 36, 4, 5, 4, 7)).shape
        torch.Size([2, 36, 4, 5, 4, 7])
    """

    def __init__(self, dim: int, min_period: float = 4.0, max_period: float = 512.0) -> None:
        super().__init__()
        if dim % 2 or dim < 8:
            raise ValueError(f"dim {dim} must be even and 8 or more: a sine and a cosine for each of h, w, d, t")
        num_periods = [(dim // 2 + rest) // 4 for rest in (3, 2, 1, 0)]
        self.axes = nn.ModuleList(SinCos(number, min_period, max_period) for number in num_periods)

    def forward(self, x: Float[Tensor, "b c h w d t"]) -> Float[Tensor, "b c h w d t"]:
        """Add the embedding to tokens (B, C, H, W, D, T), in their type."""
        grid = x.shape[2:]
        dtype = torch.promote_types(x.dtype, torch.float32)
        embeddings = []
        for axis, sincos in enumerate(self.axes):
            features = sincos(torch.arange(grid[axis], device=x.device, dtype=dtype)).T
            shape = [1] * len(grid)
            shape[axis] = grid[axis]
            embeddings.append(features.reshape(-1, *shape).expand(-1, *grid))
        return x + torch.cat(embeddings).to(x.dtype)
