"""Ranges that random transforms draw from, in MONAI's notation."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

AxisRange = float | Sequence[float | Sequence[float]] | NDArray[np.floating] | None
"""``x`` draws from -x to x along every axis; a sequence gives each axis its own ``x`` or ``(low, high)``."""


def checked_spacing(spacing: float) -> float:
    """Give the distance between control points back if it is one.

    Raises:
        ValueError: It is not a finite number above 0.
    """
    if not 0 < spacing < np.inf:
        raise ValueError(f"spacing is {spacing} mm, but it has to be a finite distance above 0")
    return spacing


def checked_range(name: str, low_high: Any, *, at_least: float = -np.inf) -> tuple[float, float]:
    """Give a range ``(low, high)`` back if it is one.

    Raises:
        ValueError: It is not two finite numbers in order, or begins below ``at_least``.
    """
    if np.shape(low_high) != (2,):
        raise ValueError(f"{name} is {low_high!r}, but it has to be (low, high), two numbers")
    low, high = low_high
    if not (np.isfinite([low, high]).all() and at_least <= low <= high):
        floor = "" if np.isinf(at_least) else f" of {at_least:g} or more"
        raise ValueError(f"{name} is {low_high}, but it has to be (low, high), two finite numbers{floor} in order")
    return low, high


def checked_axes(name: str, axis_range: AxisRange, num_values: int = 3) -> NDArray[np.float64]:
    """Write out a range of several values as rows ``(low, high)``; no range is a range from 0 to 0.

    Raises:
        ValueError: The number of values is another one, or a range is none.
    """
    if axis_range is None:
        axis_range = 0.0
    each = list(axis_range) if isinstance(axis_range, Iterable) else [axis_range] * num_values
    if len(each) != num_values:
        raise ValueError(
            f"{name} has {len(each)} entries, but it has to be one number or {num_values} entries, "
            "each a number or (low, high)"
        )
    pairs = [entry if isinstance(entry, Iterable) else (-abs(entry), abs(entry)) for entry in each]
    return np.array([checked_range(name, pair) for pair in pairs])


def uniform(random: np.random.RandomState, rows: NDArray[np.float64]) -> list[float]:
    """Draw one value for each row ``(low, high)``."""
    return [float(random.uniform(low, high)) for low, high in rows]
