"""Shifted windows over grids of any number of axes."""

from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from nstorm.scan.orders import scan_order
from nstorm.scan.token_map import TokenMap

BOUNDARIES = ("wrap", "reset")


@dataclass(frozen=True)
class GridMask:
    """Which cells of one or several grids hold tokens, in a form that can be compared and remembered.

    Attributes:
        shape: (grids, *grid).
        bits: the cells in raster order, one bit each.

    Example:
        >>> import numpy as np
        >>> from nstorm.scan.windows import GridMask
        >>> GridMask.of(np.eye(3, dtype=bool)[None]).num_tokens
        3
    """

    shape: tuple[int, ...]
    bits: bytes

    @classmethod
    def of(cls, cells: NDArray[np.bool_]) -> "GridMask":
        """Of an array (grids, *grid)."""
        return cls(cells.shape, np.packbits(cells).tobytes())

    # what is made of masks in numpy stays out of the graphs of torch.compile, which cannot read bytes
    @property
    @torch.compiler.disable
    def cells(self) -> NDArray[np.bool_]:
        """The array (grids, *grid)."""
        bits = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=prod(self.shape))
        return bits.reshape(self.shape).astype(bool)

    @property
    @torch.compiler.disable
    def num_tokens(self) -> int:
        """Cells with a token, of all grids."""
        return int(self.cells.sum())

    @property
    @torch.compiler.disable
    def tokens_per_grid(self) -> list[int]:
        """Cells with a token, of each grid."""
        counts: list[int] = self.cells.reshape(self.shape[0], -1).sum(1).tolist()
        return counts


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows as they are computed: where their tokens come from, which are none, and which must not meet.

    Attributes:
        places: from the list of tokens to windows, one after the other.
        window: places in a window per axis.
        token_mask: (windows, num_tokens) False where there is no token; None where all are.
        reset: (windows, num_tokens) True at the first token of every region but a window's first; None for none.
        attn_mask: (windows, num_tokens, num_tokens) True where the first may see the second; None where all may.
    """

    places: TokenMap
    window: tuple[int, ...]
    token_mask: NDArray[np.bool_] | None
    reset: NDArray[np.bool_] | None
    attn_mask: NDArray[np.bool_] | None

    @property
    def num_tokens(self) -> int:
        """Places in a window."""
        return prod(self.window)

    @torch.compiler.disable
    def cut(self, x: Float[Tensor, "b tokens c"]) -> Float[Tensor, "windows places c"]:
        """Tokens (b, tokens, c) as (b * windows, num_tokens, c)."""
        return self.places.take(x).reshape(-1, self.num_tokens, x.shape[-1])

    @torch.compiler.disable
    def join(self, windows: Float[Tensor, "windows places c"]) -> Float[Tensor, "b tokens c"]:
        """Undo `cut`."""
        return self.places.put(windows.reshape(-1, len(self.places.index), windows.shape[-1]))

    @torch.compiler.disable
    def flags(self, x: Float[Tensor, "windows places c"]) -> dict[str, Tensor]:
        """Those of `token_mask` and `reset` that there are, for the windows (N, num_tokens) of a batch."""
        given = {"token_mask": self.token_mask, "reset": self.reset}
        return {
            name: torch.from_numpy(array).to(x.device).repeat(len(x) // len(array), 1)
            for name, array in given.items()
            if array is not None
        }


@dataclass(frozen=True)
class WindowLayout:
    """How a grid of tokens is cut into windows, and put back.

    On an axis where the window covers the grid, the window shrinks to the grid and the shift is 0. Every other axis
    is padded at its end to a multiple of the window. A shifted grid is rolled cyclically, so that a window at the
    border holds tokens from opposite ends of the grid.

    With `boundary="wrap"`, the published behaviour, these are one window like any other, and padding is scanned as
    tokens of zeros. With `"reset"` the regions from different ends stay apart and padding enters nothing: the tokens
    of a window are grouped by region, each group in the given order, and `Windows.reset` marks where one begins
    (in raster order, regions would interleave every few tokens).

    Attributes:
        grid: size of the grid per axis, for a 4D volume of tokens (h, w, d, t).
        window_size: wanted size of a window per axis.
        shift_size: wanted shift per axis, 0 or more.
        order: of the tokens in a window, a name that `nstorm.scan.scan_order` knows.
        boundary: `"wrap"` or `"reset"`.
        window: effective size of a window.
        shift: effective shift.
        padded: size of the padded grid.

    Raises:
        ValueError: if the three sizes differ in length, one of them is out of range, or a name is unknown.

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
    order: str = "raster"
    boundary: str = "wrap"
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
        if self.boundary not in BOUNDARIES:
            raise ValueError(f"boundary {self.boundary!r} is unknown; choose one of {list(BOUNDARIES)}")
        axes = list(zip(self.grid, self.window_size, self.shift_size, strict=True))
        object.__setattr__(self, "window", tuple(min(g, w) for g, w, _ in axes))
        object.__setattr__(self, "shift", tuple(0 if g <= w else s % w for g, w, s in axes))
        object.__setattr__(self, "padded", tuple(g if g <= w else -(-g // w) * w for g, w, _ in axes))
        scan_order(self.order, self.window)

    @property
    def num_windows(self) -> int:
        """Windows in one grid."""
        return prod(self.padded) // prod(self.window)

    @property
    def num_tokens(self) -> int:
        """Tokens in one window."""
        return prod(self.window)

    def windows(self, mask: GridMask | None = None, sequential: bool = True) -> Windows:
        """Where the tokens of every window come from; made once for each layout and mask.

        Args:
            mask: the cells that hold tokens, in one grid for a whole batch or in one for each sample (whose tokens
                then follow each other in one list). Windows without any are left out.
            sequential: for mixers that go through a window token by token; False keeps every window in raster
                order, and regions apart by `attn_mask`.

        Raises:
            ValueError: if the mask is for another grid.
        """
        if mask is not None and mask.shape[1:] != self.grid:
            raise ValueError(f"mask is for the grid {mask.shape[1:]}, this layout for {self.grid}")
        return (_of_grid if mask is None else _of_mask)(self, mask, sequential)

    def partition(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "windows tokens c"]:
        """Cut (b, *grid, c) into (b * num_windows, num_tokens, c).

        Raises:
            ValueError: if x is not on this layout's grid.
        """
        if tuple(x.shape[1:-1]) != self.grid:
            raise ValueError(f"x is on the grid {tuple(x.shape[1:-1])}, this layout is for {self.grid}")
        return self.windows().cut(x.flatten(1, -2))

    def reverse(self, windows: Float[Tensor, "windows tokens c"]) -> Float[Tensor, "b *grid c"]:
        """Put (b * num_windows, num_tokens, c) back onto the grid, without its padding."""
        tokens = self.windows().join(windows)
        return tokens.reshape(-1, *self.grid, windows.shape[-1])


def _windows(layout: WindowLayout, mask: GridMask | None, sequential: bool) -> Windows:
    cells = np.ones((1, *layout.grid), bool) if mask is None else mask.cells
    index = np.full((len(cells), *layout.padded), -1)
    index[(slice(None), *(slice(size) for size in layout.grid))][cells] = np.arange(cells.sum())
    regions = np.broadcast_to(_regions(layout), index.shape)
    order = scan_order(layout.order if sequential else "raster", layout.window).permutation
    index, regions = (_cut(layout, array)[:, order] for array in (index, regions))

    apart = layout.boundary == "reset"
    present = index >= 0 if apart or mask is not None else np.ones_like(index, bool)
    held = present.any(axis=1)
    index, regions, present = index[held], regions[held], present[held]
    token_mask = reset = attn_mask = None
    if apart and sequential:
        grouped = np.argsort(np.where(present, regions, regions.max(initial=0) + 1), axis=1, kind="stable")
        index, regions = (np.take_along_axis(x, grouped, axis=1) for x in (index, regions))
        present = index >= 0
        begins = np.diff(regions, axis=1, prepend=regions[:, :1]).astype(bool) & present
        reset = begins if begins.any() else None
    if not sequential:
        seen = np.broadcast_to(present[:, None, :], (*index.shape, index.shape[1]))
        if apart:
            seen = seen & (regions[:, :, None] == regions[:, None, :])
        # an absent token sees itself, for it must see something
        seen = seen | np.eye(index.shape[1], dtype=bool)
        attn_mask = None if seen.all() else seen
    elif not present.all():
        token_mask = present
    places = TokenMap.of(index.ravel(), int(cells.sum()))
    return Windows(places, layout.window, token_mask, reset, attn_mask)


# masks may be others for every batch, and an attn_mask of each takes megabytes
_of_grid, _of_mask = lru_cache(maxsize=128)(_windows), lru_cache(maxsize=32)(_windows)


def _cut(layout: WindowLayout, array: NDArray[np.int64]) -> NDArray[np.int64]:
    """Roll (grids, *padded) and cut it into (windows, tokens), the last axis fastest."""
    axes = range(1, array.ndim)
    array = np.roll(array, [-shift for shift in layout.shift], axis=tuple(axes))
    split = [size for p, w in zip(layout.padded, layout.window, strict=True) for size in (p // w, w)]
    array = array.reshape(-1, *split)
    return array.transpose(0, *range(1, array.ndim, 2), *range(2, array.ndim, 2)).reshape(-1, layout.num_tokens)


def _regions(layout: WindowLayout) -> NDArray[np.int64]:
    """A number for each cell of the padded grid, which differs between the two ends that a shift brings together."""
    regions: NDArray[np.int64] = np.zeros((), np.int64)
    for padded, shift in zip(layout.padded, layout.shift, strict=True):
        wrapped = np.arange(padded) < shift
        regions = np.asarray(2 * regions[..., None] + wrapped, np.int64)
    return regions


@torch.compiler.disable
def grid_mask(mask: Bool[Tensor, "*b h w d"], num_frames: int) -> GridMask:
    """A `GridMask` of tokens (h, w, d, t) from a mask in space, (h, w, d) or one for each sample (b, h, w, d)."""
    cells = mask.cpu().numpy()
    cells = cells.reshape(-1, *cells.shape[-3:])
    return GridMask.of(np.repeat(cells[..., None], num_frames, axis=-1))
