"""What the tables beside a run say: how the head moved, and what was shown."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
    columns, table = _table(path)
    names = [name for name in (*MOTION, DISPLACEMENT) if name in columns]
    if not names:
        return Motion()
    if len(table) != num_frames:
        raise ValueError(f"{path} has {len(table)} rows, but the run has {num_frames} frames: give its own table")
    rows = [[_number(row[name]) for name in names] for _, row in table]
    read = dict(zip(names, np.array(rows, np.float32).T, strict=True))
    parameters = np.stack([read[name] for name in MOTION], 1) if read.keys() >= set(MOTION) else None
    displacement = read.get(DISPLACEMENT)
    if displacement is None and parameters is not None and np.isfinite(parameters).all():
        displacement = framewise_displacement(parameters).numpy()
    return Motion(parameters, displacement)


def read_events(path: str) -> list[dict[str, Any]]:
    """Read the events of a run, as far as the table goes; their times stay those after the start of the recording.

    BIDS asks for an onset and a duration. A duration that is not known is None, and a trial type that is not named is
    ``""``.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is no text, or has no onsets and durations in seconds.
    """
    columns, table = _table(path)
    if table and not {"onset", "duration"} <= {*columns}:
        raise ValueError(
            f"{path} has the columns {list(columns)}, but events have an onset and a duration: write them, or leave "
            "'events' out of the run's item"
        )
    return list(_events(path, table))


def _events(path: str, table: Sequence[tuple[int, dict[str, str]]]) -> Iterator[dict[str, Any]]:
    for line, row in table:
        onset, duration = _number(row["onset"]), _number(row["duration"])
        if not math.isfinite(onset) or duration < 0 or math.isinf(duration):
            raise ValueError(
                f"{path}, line {line}: onset is {row['onset']!r} and duration {row['duration']!r}, but these are "
                "seconds: correct them, or leave 'events' out of the run's item"
            )
        named = (row.get("trial_type") or "").strip()
        yield {
            "onset": onset,
            "duration": None if math.isnan(duration) else duration,
            "trial_type": "" if named == "n/a" else named,
        }


def _table(path: str) -> tuple[Sequence[str], list[tuple[int, dict[str, str]]]]:
    """Read the columns of a table, and its rows with their lines."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, delimiter="\t", restval="")
            return table.fieldnames or (), [(table.line_num, row) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no text table ({error}): write it again as tab-separated text") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        # n/a
        return math.nan
