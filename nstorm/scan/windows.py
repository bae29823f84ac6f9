"""Shifted windows over grids of any number of axes."""

from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor


class _Permute(torch.autograd.Function):
    """Reorder tokens (b, tokens, c); backward reorders them back, instead of the scatter-add of `index_select`."""

    @staticmethod
    def forward(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        return x.index_select(1, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        return _Permute.apply(grad, inverse, order), None, None


@lru_cache(maxsize=64)
def _orders(
    padded: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The permutation from grid order to window order of the rolled grid, and its inverse.

    As arrays: a cached tensor would keep the mode it was made in (inference, tracing) for calls outside of it.
    """
    index = np.arange(prod(padded)).reshape(padded)
    index = np.roll(index, [-s for s in shift], axis=tuple(range(len(padded))))
    split = [size for p, w in zip(padded, window, strict=True) for size in (p // w, w)]
    axes = range(len(split))
    order = index.reshape(split).transpose(*axes[::2], *axes[1::2]).ravel()
    return order, np.argsort(order)


@dataclass(frozen=True)
class WindowLayout:
    """How a grid of tokens is cut into windows, and put back.

    On an axis where the window covers the grid, the window shrinks to the grid and the shift is 0. Every other axis
    is padded with zeros at its end to a multiple of the window. A shifted grid is rolled cyclically, so that a window
    at the border joins tokens from opposite ends (the published behaviour). The tokens of a window stand in raster
    order, the last axis fastest.

    Attributes:
        grid: size of the grid per axis, for a 4D volume of tokens (h, w, d, t).
        window_size: wanted size of a window per axis.
        shift_size: wanted shift per axis, 0 or more.
        window: effective size of a window.
        shift: effective shift.
        padded: size of the padded grid.

    Raises:
        ValueError: if the three sizes differ in length, or one of them is out of range.

    Example:
        >>> import torch
        >>> layout = WindowLayout((5, 4, 3, 10), (4, 4, 4, 4), (2, 2, 2, 2))
        >>> layout.window, layout.shift, layout.padded
        ((4, 4, 3, 4), (2, 0, 0, 2), (8, 4, 3, 12))
        >>> windows = layout.partition(torch.randn(2, 5, 4, 3, 10, 36))
        >>> windows.shape
        torch.Size([12, 192, 36])
        >>> layout.reverse(windows).shape
        torch.Size([2, 5, 4, 3, 10, 36])
    """

    grid: tuple[int, ...]
    window_size: tuple[int, ...]
    shift_size: tuple[int, ...]
    window: tuple[int, ...] = field(init=False)
    shift: tuple[int, ...] = field(init=False)
    padded: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("grid", "window_size", "shift_size"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.grid) == len(self.window_size) == len(self.shift_size):
            raise ValueError(
                f"grid {self.grid}, window_size {self.window_size} and shift_size {self.shift_size} "
                "must have one entry per axis each"
            )
        if min(self.grid) < 1 or min(self.window_size) < 1 or min(self.shift_size) < 0:
            raise ValueError(
                f"grid {self.grid} and window_size {self.window_size} must be 1 or more, "
                f"shift_size {self.shift_size} 0 or more on every axis"
            )
        axes = list(zip(self.grid, self.window_size, self.shift_size, strict=True))
        object.__setattr__(self, "window", tuple(min(g, w) for g, w, _ in axes))
        object.__setattr__(self, "shift", tuple(0 if g <= w else s for g, w, s in axes))
        object.__setattr__(self, "padded", tuple(g if g <= w else -(-g // w) * w for g, w, _ in axes))

    @property
    def num_windows(self) -> int:
        """Windows in one grid."""
        return prod(self.padded) // prod(self.window)

    @property
    def num_tokens(self) -> int:
        """Tokens in one window."""
        return prod(self.window)

    def _tensors(self, device: torch.device) -> tuple[Int64[Tensor, " tokens"], Int64[Tensor, " tokens"]]:
        order, inverse = _orders(self.padded, self.window, self.shift)
        return torch.from_numpy(order).to(device), torch.from_numpy(inverse).to(device)

    def partition(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "windows tokens c"]:
        """Cut (b, *grid, c) into (b * num_windows, num_tokens, c).

        Raises:
            ValueError: if x is not on this layout's grid.
        """
        if tuple(x.shape[1:-1]) != self.grid:
            raise ValueError(f"x is on the grid {tuple(x.shape[1:-1])}, this layout is for {self.grid}")
        if self.padded != self.grid:
            sizes = zip(reversed(self.grid), reversed(self.padded), strict=True)
            x = F.pad(x, [0, 0, *(n for size, padded in sizes for n in (0, padded - size))])
        order, inverse = self._tensors(x.device)
        tokens: Tensor = _Permute.apply(x.flatten(1, -2), order, inverse)
        return tokens.reshape(-1, self.num_tokens, x.shape[-1])

    def reverse(self, windows: Float[Tensor, "windows tokens c"]) -> Float[Tensor, "b *grid c"]:
        """Put (b * num_windows, num_tokens, c) back onto the grid, without its padding."""
        order, inverse = self._tensors(windows.device)
        channels = windows.shape[-1]
        tokens: Tensor = _Permute.apply(windows.reshape(-1, order.numel(), channels), inverse, order)
        x = tokens.reshape(-1, *self.padded, channels)
        if self.padded != self.grid:
            x = x[(slice(None), *(slice(size) for size in self.grid))]
        return x
