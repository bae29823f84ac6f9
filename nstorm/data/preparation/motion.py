"""How the head moved, from the table of confounds beside a run."""

import csv
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nstorm.data.time.scrub import framewise_displacement

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
"""fMRIPrep's names of the columns: translations in mm, rotations in radians."""

DISPLACEMENT = "framewise_displacement"


@dataclass(frozen=True, eq=False)
class Motion:
    """How the head moved, frame by frame.

    Attributes:
        parameters: ``(T, 6)`` float32, in the order of :data:`MOTION`; or None.
        displacement: Framewise displacement in mm ``(T,)`` float32; or None.
    """

    parameters: NDArray[np.float32] | None = None
    displacement: NDArray[np.float32] | None = None


def read_motion(path: str, num_frames: int) -> Motion:
    """Read what a table of confounds says of motion, in fMRIPrep's columns; other tables say nothing.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is no text, or has another number of rows than the run has frames.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, delimiter="\t")
            names = [name for name in (*MOTION, DISPLACEMENT) if name in (table.fieldnames or ())]
            rows = [[_number(row[name]) for name in names] for row in table] if names else []
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no text table ({error}): write it again as tab-separated text") from error
    if not names:
        return Motion()
    if len(rows) != num_frames:
        raise ValueError(f"{path} has {len(rows)} rows, but the run has {num_frames} frames: give its own table")
    columns = dict(zip(names, np.array(rows, np.float32).T, strict=True))
    parameters = np.stack([columns[name] for name in MOTION], 1) if columns.keys() >= set(MOTION) else None
    displacement = columns.get(DISPLACEMENT)
    if displacement is None and parameters is not None and np.isfinite(parameters).all():
        displacement = framewise_displacement(parameters).numpy()
    return Motion(parameters, displacement)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        # n/a
        return math.nan
