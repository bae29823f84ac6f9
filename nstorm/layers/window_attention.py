"""Self-attention within windows."""

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class WindowAttention(nn.Module):
    """Let every token of a window attend to every other, in several heads.

    A mixer like `MambaMixer`, but one to which the order of tokens means nothing unless a relative bias tells it.

    Args:
        dim: channels of a token.
        num_heads: heads, which must divide `dim`.
        window_size: tokens of a window per axis, for a learned bias between tokens that depends on how far and in which
            direction one lies from the other; None for no bias, as published. A window that shrank to its grid may be
            smaller than this on some axes.
        qkv_bias: give the projection to queries, keys and values a bias.
        dropout_rate: dropout of the attention weights.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ValueError: if the heads do not divide `dim`; in `forward`, if a window does not fit `window_size`.

    References:
        Kim et al., "SwiFT", arXiv:2307.05916; Liu et al., "Swin Transformer", arXiv:2103.14030, eq. 4.

    Example:
        >>> import torch
        >>> from nstorm.layers import WindowAttention
        >>> WindowAttention(24, num_heads=3, window_size=(2, 2, 2, 4))(torch.randn(5, 32, 24)).shape
        torch.Size([5, 32, 24])
    """

    sequential = False

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: Sequence[int] | None = None,
        qkv_bias: bool = True,
        dropout_rate: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must divide dim {dim}")
        self.num_heads = num_heads
        self.window_size = None if window_size is None else tuple(window_size)
        self.dropout_rate = dropout_rate
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, device=device, dtype=dtype)
        self.proj = nn.Linear(dim, dim, device=device, dtype=dtype)
        if self.window_size is not None:
            distances = prod(2 * size - 1 for size in self.window_size)
            self.relative_bias = nn.Parameter(torch.empty(distances, num_heads, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights from a truncated normal of standard deviation 0.02, set biases to 0."""
        for layer in (self.qkv, self.proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if self.window_size is not None:
            nn.init.trunc_normal_(self.relative_bias, std=0.02)

    def forward(
        self,
        x: Float[Tensor, "n l c"],
        *,
        attn_mask: Bool[Tensor, "windows l l"] | None = None,
        window: Sequence[int] | None = None,
    ) -> Float[Tensor, "n l c"]:
        """Mix tokens (N, L, C), which stand in raster order.

        Args:
            x: tokens of N windows.
            attn_mask: (W, L, L), True where a token (first) may see another (second); N must be a multiple of W, and
                the masks are repeated.
            window: tokens per axis, where they differ from `window_size` because a window shrank to its grid.
        """
        n, length, channels = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.num_heads, channels // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (n, heads, l, c) each: PyTorch's fast kernels take four axes
        bias = self._bias(attn_mask, length, window)
        if bias is not None and bias.dim() == 4:
            bias = bias.repeat(n // len(bias), 1, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, bias, self.dropout_rate if self.training else 0.0)
        return self.proj(y.transpose(1, 2).reshape(n, length, channels))

    def _bias(self, attn_mask: Tensor | None, length: int, window: Sequence[int] | None) -> Tensor | None:
        allowed = None if attn_mask is None else attn_mask[:, None]
        if self.window_size is None:
            return allowed
        window = self.window_size if window is None else tuple(window)
        small = len(window) == len(self.window_size) and all(
            w <= size for w, size in zip(window, self.window_size, strict=True)
        )
        if prod(window) != length or not small:
            raise ValueError(
                f"a window of {length} tokens and size {window} does not fit window_size {self.window_size}; "
                "build the layer with the size of its windows, and pass `window` where they shrink"
            )
        index = torch.from_numpy(_distances(window, self.window_size)).to(self.relative_bias.device)
        bias = self.relative_bias[index].permute(2, 0, 1)  # (heads, l, l)
        return bias if allowed is None else torch.where(allowed, bias, -torch.inf)


@lru_cache(maxsize=32)
def _distances(window: tuple[int, ...], largest: tuple[int, ...]) -> np.ndarray:
    """For each pair of tokens the number of the distance between them."""
    cells = np.indices(window).reshape(len(window), -1)
    number = np.zeros((cells.shape[1],) * 2, np.int64)
    for places, size in zip(cells, largest, strict=True):
        number = number * (2 * size - 1) + places[:, None] - places[None, :] + size - 1
    return number
