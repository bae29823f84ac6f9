"""Events of a task run, from a BIDS ``events.tsv``."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

COLUMNS = ("onset", "duration", "trial_type")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run.

    Attributes:
        onset: Start in seconds after the start of the first frame.
        duration: Length in seconds; NaN where it is unknown, which BIDS writes as ``n/a``.
        trial_type: What was shown or done.
    """

    onset: float
    duration: float
    trial_type: str


def read_events(path: str | PathLike[str]) -> list[Event]:
    """Read the onsets, durations and trial types of a BIDS ``events.tsv`` in the order of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column or a trial type is missing, an onset or a duration is no finite number, a
            duration is negative (``n/a`` is read as NaN), or there are no events.

    Example:
        >>> from nstorm.data import haxby_runs, read_events
        >>> read_events(haxby_runs()[0].events)[0]
        Event(onset=15.0, duration=22.5, trial_type='scissors')
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, delimiter="\t", restval="")
            found = table.fieldnames or []
            missing = [column for column in COLUMNS if column not in found]
            if missing:
                raise ValueError(
                    f"{path} has the columns {list(found)} and lacks {' and '.join(missing)}: "
                    f"give a tab-separated file with the columns {', '.join(COLUMNS)}"
                )
            events = [_event(row, f"{path}, line {table.line_num}") for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a text table ({error}): give a tab-separated events.tsv") from error
    if not events:
        raise ValueError(f"{path} has no events below its header: write one line for each event")
    return events


def merge_events(events: Sequence[Event], *, max_gap: float) -> list[Event]:
    """Merge events of one trial type that follow each other closely into blocks.

    A block of single pictures, one event each, becomes one event from the first onset to the last end. The
    result is in the order of time.

    Args:
        events: Events of one run.
        max_gap: The longest pause in seconds between two events of a block.

    Raises:
        ValueError: An event has no finite onset or duration.

    Example:
        >>> from nstorm.data import Event, merge_events
        >>> pictures = [Event(0.0, 0.5, "face"), Event(1.0, 0.5, "face"), Event(2.0, 0.5, "house")]
        >>> for block in merge_events(pictures, max_gap=0.5):
        ...     print(block)
        Event(onset=0.0, duration=1.5, trial_type='face')
        Event(onset=2.0, duration=0.5, trial_type='house')
    """
    for event in events:
        if not (math.isfinite(event.onset) and math.isfinite(event.duration)):
            raise ValueError(
                f"{event} has no finite onset or duration, so that its end is unknown: "
                "give it one, or leave the event out"
            )
    merged: list[Event] = []
    for event in sorted(events, key=lambda event: event.onset):
        last = merged[-1] if merged else None
        if last and event.trial_type == last.trial_type and event.onset <= last.onset + last.duration + max_gap:
            end = max(last.onset + last.duration, event.onset + event.duration)
            merged[-1] = Event(last.onset, end - last.onset, last.trial_type)
        else:
            merged.append(event)
    return merged


def _event(row: dict[str, str], place: str) -> Event:
    unknown = row["duration"].strip() == "n/a"
    duration = math.nan if unknown else _seconds(row, "duration", place)
    if duration < 0:
        raise ValueError(f"{place}: duration is {duration:g} s, but it has to be 0 or more")
    trial_type = row["trial_type"].strip()
    if trial_type in ("", "n/a"):
        raise ValueError(f"{place}: trial_type is {trial_type!r}: name the trial type, or remove the line")
    return Event(_seconds(row, "onset", place), duration, trial_type)


def _seconds(row: dict[str, str], column: str, place: str) -> float:
    try:
        seconds = float(row[column])
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"{place}: {column} is {row[column]!r}, but it has to be a finite number of seconds")
    return seconds
