"""Sizes along h, w, d, t, checked. A single number, which other libraries take for all axes, is refused too."""

from collections.abc import Sequence


def checked_sizes(name: str, sizes: Sequence[int] | int) -> tuple[int, ...]:
    """Give back four sizes along h, w, d, t.

    Raises:
        ValueError: if they are not four, or one is below 1.
    """
    given = sizes if isinstance(sizes, int) else tuple(sizes)
    if isinstance(given, int) or len(given) != 4 or min(given) < 1:
        raise ValueError(f"{name} {given} must have four positive entries: h, w, d, t")
    return given


def checked_sizes_or_axes(name: str, sizes: Sequence[int | None] | int) -> tuple[int | None, ...]:
    """Give back four sizes along h, w, d, t, of which None stands for a whole axis.

    Raises:
        ValueError: if they are not four, or one is below 1.
    """
    given = sizes if isinstance(sizes, int) else tuple(sizes)
    if isinstance(given, int) or len(given) != 4 or any(size is not None and size < 1 for size in given):
        raise ValueError(f"{name} {given} must have four entries along h, w, d, t, positive or None for the whole axis")
    return given


def sizes_on_grid(sizes: Sequence[int | None], grid: Sequence[int]) -> tuple[int, ...]:
    """The sizes on a grid: at most the whole axis."""
    return tuple(length if size is None else min(size, length) for size, length in zip(sizes, grid, strict=True))
