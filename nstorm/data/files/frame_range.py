"""Frames that somebody asks for."""

import operator
from collections.abc import Sequence


def frame_range(frames: slice | Sequence[int] | None, num_frames: int, name: str) -> tuple[int, int]:
    """Give the first frame, and one past the last, of those that are asked for; by default of all.

    Args:
        frames: ``(start, stop)``, or them as a slice or a range.
        num_frames: Number of frames of the run.
        name: Names the run.

    Raises:
        ValueError: There are no such frames, or they do not follow each other.
    """
    if frames is None:
        return 0, num_frames
    if isinstance(frames, range):
        frames = slice(frames.start, frames.stop, frames.step)
    if isinstance(frames, slice):
        *frames, step = frames.indices(num_frames)
        if step != 1:
            raise ValueError(f"frames has a step of {step}, but frames are read one after another: slice the result")
    return frame_pair(frames, num_frames, name)


def frame_pair(frames: Sequence[int], num_frames: int, name: str) -> tuple[int, int]:
    """Check that ``(start, stop)`` are frames of a run.

    Raises:
        ValueError: They are not.
    """
    try:
        start, stop = map(operator.index, frames)
    except (TypeError, ValueError):
        raise ValueError(
            f"frames is {frames!r} for {name}, but it has to be (start, stop), two whole numbers"
        ) from None
    check_range(start, stop, num_frames, name)
    return start, stop


def check_range(start: int, stop: int, num_frames: int, name: str) -> None:
    """Refuse frames that a run does not have.

    Raises:
        ValueError: It does not have them.
    """
    if not 0 <= start < stop <= num_frames:
        raise ValueError(
            f"frames {start} to {stop} of {name} are asked for, but it has {num_frames}: give a start of 0 or more, "
            "and a larger stop up to that number"
        )
