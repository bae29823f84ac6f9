"""Who follows a job: shows its progress, and keeps its failures."""

import time
from contextlib import suppress

from nstorm.data.preparation.failures import Failure, table_name, write_table
from nstorm.data.preparation.job import Outcome
from nstorm.data.preparation.progress import Progress
from nstorm.data.store.place import Place

_WRITTEN = 60.0


class JobEndsError(Exception):
    """A failure after which no other run is to be tried."""


class JobWatch:
    """Follows a job.

    Args:
        place: The store's.
        progress: Shows it.
        strict: Whether the first failure ends the job.

    Attributes:
        failures: The failures so far.
        num_ended: Number of runs that are prepared or have failed.
        table: The object below the store that lists the failures.
    """

    def __init__(self, place: Place, progress: Progress, *, strict: bool) -> None:
        self.failures: list[Failure] = []
        self.num_ended = 0
        self.table = table_name()
        self._place = place
        self._progress = progress
        self._strict = strict
        self._written = time.monotonic()

    def moved(self, key: str, stage: str, share: float) -> None:
        """Show that a run is in a stage."""
        self._progress.moved(key, stage, share)

    def ended(self, key: str, outcome: Outcome) -> None:
        """Take note of the outcome of a run.

        Raises:
            JobEndsError: It is a failure that ends the job.
        """
        self.num_ended += 1
        self._progress.ended(key, not isinstance(outcome, Failure))
        if not isinstance(outcome, Failure):
            return
        self.failures.append(outcome)
        self.note(f"FAILED {outcome}")
        # now and then, in case that the job is killed
        if time.monotonic() - self._written > _WRITTEN:
            self.write()
        if self._strict or outcome.ends_all:
            raise JobEndsError

    def again(self, key: str, why: str) -> None:
        """Show that a run has to be begun again."""
        self._progress.put_back(key)
        self.note(f"{key}: {why}. It is tried once more in the end")

    def note(self, text: str) -> None:
        """Show a line that stays."""
        self._progress.note(text)

    def tick(self) -> None:
        """Show how far the job is, now and then."""
        self._progress.tick()

    def write(self) -> None:
        """List the failures beside the runs, if there are any and if there is room."""
        self._written = time.monotonic()
        if self.failures:
            with suppress(OSError):
                write_table(self._place, self.table, self.failures)
