"""Normalisations folded into the scale and the offset of every voxel, so that reading frames costs the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nstorm.data.normalize import LEAST_BASELINE

Normalization = Literal["zscore", "percent", "global", "none"]


@dataclass(frozen=True, eq=False)
class Folded:
    """What makes normalised values of codes: ``code * scale + offset`` in the brain.

    Attributes:
        scale: ``(V,)``.
        offset: ``(V,)``.
        background: The value of voxels outside the brain.
    """

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    background: float = 0.0


def folded(
    normalize: Normalization,
    scale: NDArray[np.float32],
    offset: NDArray[np.float32],
    statistics: Callable[[], tuple[NDArray[np.float32], NDArray[np.float32]]],
    together: Callable[[], Mapping[str, float]],
) -> Folded:
    """Fold a normalisation into the scale and the offset of codes.

    Args:
        normalize: See :class:`nstorm.data.store.stored_run.StoredRun`.
        scale: Of the values as they were prepared.
        offset: Of the same.
        statistics: Gives mean and standard deviation of each voxel.
        together: Gives ``mean`` and ``std`` of all voxels together, and the ``lowest`` value.

    Raises:
        ValueError: There is no such normalisation.
    """
    if normalize == "none":
        return Folded(scale, offset)
    if normalize == "global":
        found = together()
        lowest = (found["lowest"] - found["mean"]) / found["std"]
        return Folded(*_against(scale, offset, found["mean"], found["std"]), lowest)
    if normalize not in ("zscore", "percent"):
        raise ValueError(f"normalize is {normalize!r}, but it has to be 'zscore', 'percent', 'global' or 'none'")
    mean, std = statistics()
    # by less float32 cannot divide
    keep = std >= np.finfo(np.float32).tiny
    if normalize == "percent":
        keep &= np.abs(mean) > LEAST_BASELINE * std
    unit = np.where(keep, std if normalize == "zscore" else np.abs(mean) / 100, np.float32(1))
    made_scale, made_offset = _against(scale, offset, mean, unit)
    return Folded(np.where(keep, made_scale, np.float32(0)), np.where(keep, made_offset, np.float32(0)))


def _against(
    scale: NDArray[np.float32],
    offset: NDArray[np.float32],
    centre: NDArray[np.float32] | float,
    unit: NDArray[np.float32] | float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    # the difference in float64: offset and centre are much larger than it
    shift = (offset.astype(np.float64) - centre) / unit
    return (scale / unit).astype(np.float32), shift.astype(np.float32)
