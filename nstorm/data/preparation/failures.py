"""Runs that could not be prepared, and why."""

import csv
import errno
import io
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nstorm.data.store.place import Place
from nstorm.data.store.record import new_attempt
from nstorm.data.store.store import Store
from nstorm.data.wording import counted

FAILURES = "failures"
MOST_LISTED = 20
_NO_MORE_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that could not be prepared.

    Attributes:
        key: Names the run.
        file: Its image.
        reason: Why.
        ends_all: Whether no other run can be written either, as when the disk is full.
    """

    key: str
    file: str
    reason: str
    ends_all: bool = False

    @classmethod
    def of(cls, key: str, item: Mapping[str, Any], place: Place, error: Exception) -> "Failure":
        """Describe the failure of a run by the error that it ended with."""
        files = [str(place), *(value for value in item.values() if isinstance(value, str) and os.sep in value)]
        return cls(key, item["image"], _reason(error, files), _ends_all(error))

    def __str__(self) -> str:
        named = "" if self.file in self.reason else f" ({self.file})"
        return f"{self.key}: {self.reason}{named}"


class PrepareError(RuntimeError):
    """Some runs of a study could not be prepared; all others are in the store, whole.

    Attributes:
        failures: These runs.
        store: The store, with the runs that could be prepared.
        num_left: Number of runs that were not tried, because the job ended before.
        table: Where the failures are listed, a run a row.
    """

    def __init__(self, failures: Sequence[Failure], store: Store, num_left: int, table: str) -> None:
        # an exception is copied and sent by its arguments
        super().__init__(failures, store, num_left, table)
        self.failures = tuple(failures)
        self.store = store
        self.num_left = num_left
        self.table = table

    def __str__(self) -> str:
        lines = [f"{counted(len(self.failures), 'run')} could not be prepared:"]
        lines += [f"  {failure}" for failure in self.failures[:MOST_LISTED]]
        if len(self.failures) > MOST_LISTED:
            lines.append(f"  and {len(self.failures) - MOST_LISTED:,} more, listed in {self.table}")
        if self.num_left:
            lines.append(f"The job ended there, with {counted(self.num_left, 'run')} still to do.")
        lines.append(
            f"{counted(len(self.store), 'whole run')} in {self.store.place}; the same command prepares the rest."
        )
        return "\n".join(lines)


def write_table(place: Place, name: str, failures: Sequence[Failure]) -> None:
    """List failures beside the runs, for who looks in the morning at what failed over night."""
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(["key", "image", "reason"])
    table.writerows([failure.key, failure.file, " ".join(failure.reason.split())] for failure in failures)
    place.put(name, text.getvalue().encode())


def table_name() -> str:
    """Name a table of failures; names sort by time."""
    return f"{FAILURES}/{new_attempt()}.tsv"


def _reason(error: Exception, files: Sequence[str]) -> str:
    # str() of a KeyError quotes its sentence
    said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, ValueError | OSError | KeyError) and any(file in said for file in files):
        return said
    # an error that nobody wrote a sentence for: say where it is from, in one line
    way = traceback.extract_tb(error.__traceback__)
    places = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in way[1:])
    return f"{type(error).__name__}: {said} (in {places})"


def _ends_all(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_MORE_WRITING:
            return True
        error = error.__cause__ or error.__context__
    return False
