"""A Hilbert curve through any box of any number of axes, without a jump."""

from collections.abc import Set
from functools import cache

import numpy as np
from jaxtyping import Int64
from numpy import ndarray


def hilbert_path(grid: tuple[int, ...]) -> Int64[ndarray, "cells axes"]:
    """Coordinates of all cells of a grid in the order in which a generalised Hilbert curve visits them.

    Every step goes to a neighbour in the grid, on every box. The curve runs from the cell (0, 0, ...) to another
    corner. A cube whose side is a power of two gets the classic Hilbert curve, which visits every aligned cube of
    half, a quarter, ... of its side in one piece. Any other box is cut along its longest axis:

    - where the curve crosses that axis from end to end, into two pieces, one after the other;
    - else into a U along that axis: out through one half of the near piece, through the whole far piece, back through
      the other half of the near piece.

    Why it never jumps: colour the cells like a checkerboard. A path alternates between the colours, so it can join
    two corners of a box only if an odd number of the axes on which they differ have an even size, or if all sizes are
    odd. The end corner is chosen to obey this rule, and every cut takes an even length off the longest axis. What
    remains has its corners on the same axes and the same parities as the whole, and what is taken off is crossed along
    its even side alone, so that every piece obeys the rule in turn. (A fixed end corner would not do: no path without
    a jump joins opposite corners of a (2, 2) grid.)

    Args:
        grid: size per axis, each 1 or more.

    References:
        C. Hamilton and A. Rau-Chaplin, Compact Hilbert indices, Information Processing Letters 105 (2008): entry and
        direction of each half-size cube. J. Cerveny's generalised Hilbert curve for 2D and 3D cuts boxes into such Us
        too, between end corners that are fixed, with a diagonal step where parity forbids them.

    Example:
        >>> hilbert_path((2, 3)).tolist()
        [[0, 0], [1, 0], [1, 1], [0, 1], [0, 2], [1, 2]]
    """
    longest = max(range(len(grid)), key=grid.__getitem__)
    even = [axis for axis, size in enumerate(grid) if size % 2 == 0]
    across = {longest, longest if longest in even or not even else max(even, key=grid.__getitem__)}
    path = _path(grid, frozenset(across))
    # The pieces of one box are alike, those of two boxes seldom.
    _path.cache_clear()
    return path


@cache
def _path(box: tuple[int, ...], across: frozenset[int]) -> Int64[ndarray, "cells axes"]:
    """The path from the first corner to the corner on the far side of the axes `across`, each longer than 1."""
    longest = max(box)
    if longest == 1:
        return np.zeros((1, len(box)), np.int64)
    if longest & (longest - 1) == 0 and set(box) <= {1, longest}:
        (last,) = across
        return _cube(box, last)
    # A crossed axis comes last among equals. Cut from 3 to 1 it no longer parts start and end: then either another
    # one still does, or all others are 1 already.
    axis = max(range(len(box)), key=lambda i: (box[i], i not in across))
    cut = _even_part(box[axis])
    first = (0,) * len(box)
    near, far = _replace(box, axis, cut), _replace(first, axis, cut)
    if axis in across:
        return np.concatenate([_piece(first, near, set(), {axis}), _piece(far, box, set(), across)])
    other = max(across, key=box.__getitem__)
    half = box[other] // 2
    out = _piece(first, _replace(near, other, half), set(), {axis})
    back = _piece(_replace(first, other, half), near, across | {axis}, {axis})
    return np.concatenate([out, _piece(far, box, set(), across), back])


def _piece(
    low: tuple[int, ...], high: tuple[int, ...], start: Set[int], across: Set[int]
) -> Int64[ndarray, "cells axes"]:
    """The path through the part low <= cell < high, from its corner on the far side of the axes `start`."""
    box = tuple(end - begin for begin, end in zip(low, high, strict=True))
    path = _path(box, frozenset(axis for axis in across if box[axis] > 1))
    flipped = [axis in start for axis in range(len(box))]
    return np.where(flipped, np.subtract(high, 1) - path, np.add(low, path))


def _cube(box: tuple[int, ...], last: int) -> Int64[ndarray, "cells axes"]:
    """The classic curve: half-size cubes in the order of the Gray code, whose highest bit is the axis `last`."""
    axes = [axis for axis, size in enumerate(box) if size > 1 and axis != last] + [last]
    half = box[last] // 2
    pieces = []
    for i in range(2 ** len(axes)):
        low = [0] * len(box)
        for axis in _axes_of(_gray(i), axes):
            low[axis] = half
        high = [start + half if axis in axes else 1 for axis, start in enumerate(low)]
        entry = _axes_of(_gray(max(i - 1, 0) & ~1), axes)
        step = i + i % 2
        direction = axes[((step & -step or 1).bit_length() - 1) % len(axes)]
        pieces.append(_piece(tuple(low), tuple(high), entry, {direction}))
    return np.concatenate(pieces)


def _gray(i: int) -> int:
    return i ^ i >> 1


def _axes_of(bits: int, axes: list[int]) -> set[int]:
    return {axis for bit, axis in enumerate(axes) if bits >> bit & 1}


def _even_part(size: int) -> int:
    """The even length in the middle third of size >= 3 with the most factors of 2: it leaves cubes to be found."""
    middle = [part for part in range(2, size, 2) if size <= 3 * part <= 2 * size]
    return max(middle, key=lambda part: (part & -part, -abs(2 * part - size)))


def _replace(values: tuple[int, ...], axis: int, value: int) -> tuple[int, ...]:
    return (*values[:axis], value, *values[axis + 1 :])
