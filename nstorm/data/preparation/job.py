"""What is done with each run, wherever that is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from nstorm.data.preparation.failures import Failure
from nstorm.data.preparation.one_run import prepare_run
from nstorm.data.preparation.recipe import Recipe
from nstorm.data.preparation.sources import why_again
from nstorm.data.store.place import Place
from nstorm.data.store.record import RunRecord
from nstorm.data.store.store import MARKER

Outcome: TypeAlias = RunRecord | Failure
Moved: TypeAlias = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Job:
    """A run that is to be prepared: its name and its item."""

    key: str
    item: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Work:
    """How runs are prepared; it can be sent to other processes and machines."""

    place: Place
    recipe: Recipe
    one_file: bool

    def attempt(self, job: Job, moved: Moved) -> Outcome:
        """Prepare a run; an error is an outcome.

        Args:
            job: The run.
            moved: Told the stage, and the share of the run that is done.
        """
        try:
            self._see_the_store()
            return self.made(job, moved)
        except Exception as error:
            return Failure.of(job.key, job.item, self.place, error)

    def made(self, job: Job, moved: Moved) -> RunRecord:
        """Prepare a run."""
        return prepare_run(job.item, self.place, self.recipe, key=job.key, one_file=self.one_file, progress=moved)

    def why_again(self, job: Job, record: RunRecord) -> str:
        """Say why a stored run is not the one that is wanted; ``""`` if it is."""
        return why_again(job.item, record, self.recipe)

    def _see_the_store(self) -> None:
        # another machine would begin a folder of its own under that name
        try:
            self.place.get(MARKER)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.place} is no store on the machine that prepares the run: give a folder of a file system that "
                "all machines share, or a URL"
            ) from error


@runtime_checkable
class Watch(Protocol):
    """Who is told how the runs get on."""

    def moved(self, key: str, stage: str, share: float) -> None:
        """Take note that a run is in a stage, with a share of it done."""

    def ended(self, key: str, outcome: Outcome) -> None:
        """Take note of the outcome of a run; an error that is raised here ends all."""

    def again(self, key: str, why: str) -> None:
        """Take note that a run has to be begun again."""

    def note(self, text: str) -> None:
        """Take note of something that happened."""

    def tick(self) -> None:
        """Take note that time goes by."""


def in_this_process(jobs: Sequence[Job], work: Work, watch: Watch) -> None:
    """Prepare runs one after the other."""
    for job in jobs:

        def moved(stage: str, share: float, key: str = job.key) -> None:
            watch.moved(key, stage, share)

        watch.ended(job.key, work.attempt(job, moved))
