"""Values of a file that are no numbers: where they are, and what to put in place of NaN."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nstorm.data.wording import some_of


def put_volume(frame: NDArray[np.floating], volume: NDArray[Any], fill_nan: float | None) -> bool:
    """Put a volume into the memory of a frame, and a value in place of NaN; tell whether all of it is finite then."""
    # a number that float32 cannot hold becomes infinite, which is refused
    with np.errstate(over="ignore"):
        frame[...] = volume
    if fill_nan is not None:
        frame[np.isnan(frame)] = fill_nan
    # NaN and infinity show in the extremes, which cost no array of flags
    return bool(np.isfinite([frame.min(), frame.max()]).all())


def not_finite(path: Path, frames: NDArray[np.floating], first: int, broken: list[int]) -> ValueError:
    """Say which frames have values that are no numbers.

    Args:
        path: The file.
        frames: Some of its frames.
        first: Number of the first of them in the file.
        broken: Which of them it is about.
    """
    bad = frames[broken]
    is_nan = bool(np.isnan(bad).any())
    remedy = (
        "pass fill_nan=0 where it marks what is outside the brain, as SPM does, or correct the image"
        if is_nan
        else "correct the image, or leave the run out"
    )
    named = some_of([first + index for index in broken], 5)
    return ValueError(
        f"{path} has {'NaN' if is_nan else 'infinite'} values in {(~np.isfinite(bad)).any(axis=0).sum()} "
        f"voxels, in frame{'s' if len(broken) > 1 else ''} {named}: {remedy}"
    )
