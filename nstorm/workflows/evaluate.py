"""Accuracies with their uncertainty."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

_LEVEL = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def bootstrap_mean(values: Shaped[np.ndarray, " n"], *, seed: int = 0) -> Estimate:
    """Estimate a mean over independent units (subjects, or the blocks of one subject) by the percentile bootstrap.

    Args:
        values: one number per unit, such as whether it was classified correctly, or the difference of two models on
            it (a paired comparison). Frames of one block are not independent: give one number per block.
        seed: of the 10,000 resamples.

    Raises:
        ValueError: if there are no values.

    Example:
        >>> import numpy as np
        >>> from nstorm.workflows import bootstrap_mean
        >>> print(bootstrap_mean(np.array([1, 1, 1, 0] * 24)))
        0.75 [0.66, 0.83]
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values has shape {values.shape}, expected one number for each of one or more units")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, values.size, (10_000, values.size))].mean(1)
    low, high = np.percentile(means, _LEVEL)
    return Estimate(float(values.mean()), float(low), float(high))
