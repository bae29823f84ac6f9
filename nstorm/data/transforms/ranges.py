"""Ranges that random transforms draw from, in MONAI's notation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

AxisRange = float | Sequence[float | tuple[float, float]] | None
"""``x`` draws from -x to x along every axis; a sequence gives each axis its own ``x`` or ``(low, high)``."""


def checked_range(name: str, low_high: tuple[float, float], *, at_least: float = -np.inf) -> tuple[float, float]:
    """Give a range back if it is one.

    Raises:
        ValueError: It is not two finite numbers in order, or begins below ``at_least``.
    """
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
    each = axis_range if isinstance(axis_range, Sequence) else [axis_range] * num_values
    if len(each) != num_values:
        raise ValueError(
            f"{name} has {len(each)} entries, but it has to be one number or {num_values} entries, "
            "each a number or (low, high)"
        )
    pairs = [entry if isinstance(entry, tuple) else (-abs(entry), abs(entry)) for entry in each]
    return np.array([checked_range(name, pair) for pair in pairs])


def uniform(random: np.random.RandomState, rows: NDArray[np.float64]) -> list[float]:
    """Draw one value for each row ``(low, high)``."""
    return [float(random.uniform(low, high)) for low, high in rows]
