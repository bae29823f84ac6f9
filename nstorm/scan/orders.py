"""Orders in which a scan visits the cells of an n-D grid, as data: permutations with their inverses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from math import prod
from operator import index
from typing import ParamSpec, TypeVar

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from torch import Tensor

from nstorm.scan.hilbert import hilbert_path
from nstorm.scan.token_map import TokenMap

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class ScanOrder:
    """The order in which a scan visits the cells of a grid; any permutation will do, your own too.

    Attributes:
        grid: size of the grid per axis, for a window of tokens (h, w, d, t).
        permutation: (cells,) raster index (last axis fastest) of the cell visited i-th; a read-only copy.
        inverse: (cells,) place in the order of the cell with raster index i; read-only.

    Raises:
        ValueError: if the grid has no cells, or the permutation does not hold each of them once.

    Example:
        >>> import torch
        >>> from nstorm.scan import ScanOrder
        >>> order = ScanOrder((2, 2), [0, 1, 3, 2])
        >>> order.apply(torch.tensor([10, 11, 12, 13]), dim=0)
        tensor([10, 11, 13, 12])
        >>> order.reversed().permutation, order.jumps()
        (array([2, 3, 1, 0]), array([1, 1, 1]))
    """

    grid: tuple[int, ...]
    permutation: Int64[ndarray, " cells"]
    inverse: Int64[ndarray, " cells"] = field(init=False, repr=False)
    _map: TokenMap = field(init=False, repr=False)

    def __post_init__(self) -> None:
        grid, given = _checked(self.grid), np.asarray(self.permutation)
        cells = np.arange(prod(grid))
        if not np.array_equal(np.sort(given), cells):
            raise ValueError(
                f"permutation must hold each raster index of grid {grid}, 0 to {prod(grid) - 1}, once; "
                f"it has shape {given.shape} and begins with {given.ravel()[:8].tolist()}"
            )
        permutation = given.astype(np.int64)
        inverse = np.empty_like(permutation)
        inverse[permutation] = cells
        permutation.setflags(write=False)
        inverse.setflags(write=False)
        for name, value in (("grid", grid), ("permutation", permutation), ("inverse", inverse)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_map", TokenMap(permutation, inverse))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScanOrder):
            return NotImplemented
        return self.grid == other.grid and np.array_equal(self.permutation, other.permutation)

    def __hash__(self) -> int:
        return hash(self.grid)

    @property
    def coordinates(self) -> Int64[ndarray, "cells axes"]:
        """The cells as they are visited, one coordinate an axis."""
        return np.stack(np.unravel_index(self.permutation, self.grid), axis=1)

    def reversed(self) -> "ScanOrder":
        """The same way back."""
        return ScanOrder(self.grid, self.permutation[::-1])

    def jumps(self) -> Int64[ndarray, " steps"]:
        """How far each step goes: the Manhattan distance in the grid, 1 to a neighbour."""
        distances: Int64[ndarray, " steps"] = np.abs(np.diff(self.coordinates, axis=0)).sum(axis=1)
        return distances

    def apply(self, x: Tensor, dim: int = -2) -> Tensor:
        """Bring tokens that stand in raster order along `dim`, as in (n, cells, c), into this order.

        Raises:
            ValueError: if x has not one token a cell along `dim`.
        """
        return self._reorder(x, dim, self._map.take)

    def restore(self, x: Tensor, dim: int = -2) -> Tensor:
        """Bring tokens that stand in this order along `dim` back into raster order: undoes `apply`."""
        return self._reorder(x, dim, self._map.put)

    def _reorder(self, x: Tensor, dim: int, move: Callable[[Tensor], Tensor]) -> Tensor:
        cells = len(self.permutation)
        if x.shape[dim] != cells:
            raise ValueError(
                f"x has {x.shape[dim]} tokens along dim {dim}, this order is for the {cells} cells of {self.grid}"
            )
        dim %= x.dim()
        # (before, cells, after)
        tokens = x.reshape(prod(x.shape[:dim]), cells, prod(x.shape[dim + 1 :]))
        return move(tokens).reshape(x.shape)


def _checked(grid: Sequence[int]) -> tuple[int, ...]:
    if len(grid) == 0 or min(grid) < 1:
        raise ValueError(f"grid {tuple(grid)} must have at least one axis, and a size of 1 or more on each")
    return tuple(index(size) for size in grid)


def _cached(make: Callable[P, R]) -> Callable[P, R]:
    """Remember what `make` returned for the last 64 grids, given as tuples, lists or torch sizes."""
    remembered = lru_cache(maxsize=64)(make)

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return remembered(*map(_hashable, args), **{name: _hashable(value) for name, value in kwargs.items()})

    return call


def _hashable(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _raster_indices(grid: Sequence[int], axes: Sequence[int] | None) -> Int64[ndarray, "..."]:
    """The raster index of every cell, as an array with the axes in the given order."""
    grid = _checked(grid)
    axes = range(len(grid)) if axes is None else axes
    if sorted(axes) != list(range(len(grid))):
        raise ValueError(f"axes {tuple(axes)} must name each axis of grid {grid}, 0 to {len(grid) - 1}, once")
    return np.arange(prod(grid)).reshape(grid).transpose(axes)


@_cached
def raster_order(grid: Sequence[int], axes: Sequence[int] | None = None) -> ScanOrder:
    """Line by line, each in the same direction.

    Args:
        grid: size per axis.
        axes: the axes from the slowest to the fastest; by default as they stand, the last one fastest.

    Raises:
        ValueError: if the grid has no cells, or `axes` does not name each of its axes once.

    Example:
        >>> raster_order((2, 3)).permutation
        array([0, 1, 2, 3, 4, 5])
        >>> raster_order((2, 3), axes=(1, 0)).permutation
        array([0, 3, 1, 4, 2, 5])
    """
    return ScanOrder(tuple(grid), _raster_indices(grid, axes).ravel())


@_cached
def snake_order(grid: Sequence[int], axes: Sequence[int] | None = None) -> ScanOrder:
    """Line by line, every other one backwards (boustrophedon), along every axis: each step goes to a neighbour.

    Arguments and errors are those of `raster_order`.

    Example:
        >>> snake_order((2, 3)).permutation
        array([0, 1, 2, 5, 4, 3])
    """
    cells = np.ascontiguousarray(_raster_indices(grid, axes))
    for axis in range(1, cells.ndim):
        # a view: (all slower axes, axis, ...)
        passes = cells.reshape(-1, *cells.shape[axis:])
        passes[1::2] = passes[1::2, ::-1]
    return ScanOrder(tuple(grid), cells.ravel())


@_cached
def hilbert_order(grid: Sequence[int]) -> ScanOrder:
    """Along a generalised Hilbert curve: each step goes to a neighbour, and what is near in the order is near in space.

    On a grid of any sizes and any number of axes, without a single jump: `nstorm.scan.hilbert` has the construction
    and its proof, and all boxes with sides 1 to 16 in 2D, 1 to 8 in 3D and 1 to 6 in 4D were counted. Measured on
    windows: the mean, over all 16 consecutive tokens, of the greatest Manhattan distance between two of them; and how
    far apart in the order two neighbours in the grid stand, on the (arithmetic) average and typically (geometric mean).

    ============= ====================== ====================== ======================
    window        distance within 16     neighbours, mean       neighbours, typical
    ============= ====================== ====================== ======================
    .             raster snake hilbert   raster snake hilbert   raster snake hilbert
    (2, 2, 2, 4)  5.9    5.8   4.8       6.6    6.6   4.2       4.0    3.4   2.7
    (4, 4, 4, 4)  7.5    6.3   5.2       21.3   21.3  21.8      8.0    6.5   5.5
    (4, 4, 4, 20) 19.4   12.6  5.3       98.7   98.7  28.4      21.8   17.6  6.6
    ============= ====================== ====================== ======================

    So tokens that are close in the order are closer in space than along a raster or a snake. But the few neighbours
    that the curve parts, it parts widely: on a cube their mean distance is no smaller than a raster's.

    Raises:
        ValueError: if the grid has no cells.

    Example:
        >>> hilbert_order((3, 2)).permutation
        array([0, 1, 3, 2, 4, 5])
    """
    grid = _checked(grid)
    return ScanOrder(grid, np.ravel_multi_index(tuple(hilbert_path(grid).T), grid))


_BY_NAME: dict[str, Callable[[Sequence[int]], ScanOrder]] = {
    "raster": raster_order,
    "temporal_first": raster_order,
    "spatial_first": lambda grid: raster_order(grid, (len(grid) - 1, *range(len(grid) - 1))),
    "snake": snake_order,
    "hilbert": hilbert_order,
}
_REVERSED = "_reversed"


def list_orders() -> list[str]:
    """The names that `scan_order` knows."""
    return [*_BY_NAME, *(name + _REVERSED for name in _BY_NAME)]


@_cached
def scan_order(name: str, grid: Sequence[int]) -> ScanOrder:
    """The order of this name.

    The last axis is time: `temporal_first` follows one place through time before it turns to the next (the published
    order, the same as `raster`), `spatial_first` visits one frame before it turns to the next. With `_reversed` at
    the end of its name, an order goes backwards.

    Raises:
        ValueError: if no order has this name, or the grid has no cells.

    Example:
        >>> scan_order("spatial_first", (2, 1, 1, 3)).permutation
        array([0, 3, 1, 4, 2, 5])
        >>> scan_order("snake_reversed", (2, 3)).permutation
        array([3, 4, 5, 2, 1, 0])
    """
    if name not in list_orders():
        raise ValueError(f"scan order {name!r} is unknown; choose one of {', '.join(list_orders())}")
    order = _BY_NAME[name.removesuffix(_REVERSED)](grid)
    return order.reversed() if name.endswith(_REVERSED) else order


def bidirectional(order: ScanOrder) -> tuple[ScanOrder, ScanOrder]:
    """The order and its reverse."""
    return order, order.reversed()


@_cached
def cross_scan(grid: Sequence[int]) -> tuple[ScanOrder, ...]:
    """For every axis the raster that runs along it and its reverse, equal orders (on axes of length 1) only once.

    References:
        The cross-scan of VMamba (https://arxiv.org/abs/2401.10166), here in any number of axes.

    Example:
        >>> [order.permutation.tolist() for order in cross_scan((2, 2))]
        [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [3, 1, 2, 0]]
        >>> len(cross_scan((4, 4, 4, 20))), len(cross_scan((1, 1, 1, 20)))
        (8, 2)
    """
    axes = range(len(_checked(grid)))
    rasters = [raster_order(grid, (*(axis for axis in axes if axis != fast), fast)) for fast in reversed(axes)]
    return tuple(dict.fromkeys(order for raster in rasters for order in bidirectional(raster)))
