"""What is to be done: which runs of a study are not in the store yet."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nstorm.data.bars import bar
from nstorm.data.clips.items import listing, run_of
from nstorm.data.in_threads import in_threads
from nstorm.data.preparation.job import Job, Work
from nstorm.data.preparation.sources import CHANGED, OTHERWISE, labels_of
from nstorm.data.store.record import RunRecord, check_key
from nstorm.data.store.store import Store
from nstorm.data.store.write import relabel
from nstorm.data.study.study import Study
from nstorm.data.wording import counted


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with the runs of a study.

    Attributes:
        jobs: The runs that are to be prepared.
        relabelled: Records of runs that are in the store as they are wanted, but for their labels; and these.
        num_there: Number of runs that are in the store as they are wanted, whatever their labels.
    """

    jobs: tuple[Job, ...]
    relabelled: tuple[tuple[RunRecord, dict[str, Any]], ...]
    num_there: int

    def relabel(self, store: Store) -> None:
        """Write the labels that have changed."""
        for _ in in_threads(lambda each: relabel(store.place, *each), self.relabelled):
            pass


def named(study: Study) -> list[Job]:
    """Name each run of a study.

    Raises:
        ValueError: Runs have no name, the same name, or one that a store cannot have.
    """
    jobs = [Job(run_of(item), item) for item in study]
    if twice := [key for key, number in Counter(job.key for job in jobs).items() if number > 1]:
        raise ValueError(
            f"{counted(len(twice), 'name')} of runs for more than one image ({listing(twice, 3)}): a store has one run "
            "of a name, so keep one image of each, or tell them apart by session, task, acquisition, direction or run"
        )
    for job in jobs:
        try:
            check_key(job.key)
        except ValueError as error:
            raise ValueError(f"{job.item['image']}: {error}") from error
    return jobs


def planned(jobs: Sequence[Job], work: Work, store: Store, *, overwrite: bool, progress: bool) -> Plan:
    """Compare runs with a store.

    Args:
        jobs: The runs.
        work: How they are to be prepared.
        store: The store.
        overwrite: Whether to prepare runs again that are in the store, but not as they are wanted.
        progress: Whether to show the progress.

    Raises:
        ValueError: Runs are in the store that were prepared in another way or from other files, and they are not to be
            prepared again.
    """
    labels = {job.key: labels_of(job.item) for job in jobs}
    present = [job for job in jobs if job.key in store.records]
    compare = in_threads(lambda job: work.why_again(job, store.records[job.key]), present)
    whys = list(bar(compare, "compare", len(present), unit="run", show=progress and bool(present)))
    old = {job.key: why for job, why in zip(present, whys, strict=True) if why}
    if old and not overwrite:
        raise ValueError(_about(old, store))
    kept = [job for job in present if job.key not in old]
    relabelled = tuple(
        (store.records[job.key], labels[job.key])
        for job in kept
        if not _same(labels[job.key], store.records[job.key].labels)
    )
    return Plan(tuple(job for job in jobs if job.key in old or job.key not in store.records), relabelled, len(kept))


def _same(labels: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    # as text, in which NaN is equal to itself
    return json.dumps(labels, sort_keys=True) == json.dumps(others, sort_keys=True)


def _about(old: Mapping[str, str], store: Store) -> str:
    causes = [
        f"{counted(len(keys), 'run')} {cause} ({listing(keys, 3)})"
        for cause in (OTHERWISE, CHANGED)
        if (keys := [key for key, why in old.items() if why == cause])
    ]
    return (
        f"{store.place} has {' and '.join(causes)}: pass overwrite=True to prepare them again, or give a folder for "
        "another store"
    )
