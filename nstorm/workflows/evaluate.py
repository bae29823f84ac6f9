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
    return bootstrap_ratio(values, np.ones_like(values), seed=seed)


def bootstrap_ratio(sums: Shaped[np.ndarray, " n"], weights: Shaped[np.ndarray, " n"], *, seed: int = 0) -> Estimate:
    """Estimate a mean over units of unequal size, the sum of all sums over that of all weights, by the same bootstrap.

    Args:
        sums: one sum per unit, such as of the squared errors in a block of frames.
        weights: what each is a sum over, such as the number of voxels; above 0.
        seed: of the 10,000 resamples.

    Example:
        >>> import numpy as np
        >>> from nstorm.workflows.evaluate import bootstrap_ratio
        >>> print(bootstrap_ratio(np.array([30.0, 32.0, 1.5] * 8), np.array([10, 10, 1] * 8)))
        3.02 [2.92, 3.09]
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(sums), (10_000, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / weights[drawn].sum(1), _LEVEL)
    return Estimate(float(sums.sum() / weights.sum()), float(low), float(high))
