"""Runs of a store as the planning of clips takes them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, TypeAlias

from nstorm.data.clips.events import Event
from nstorm.data.clips.items import image_file, listing, run_of
from nstorm.data.clips.planned_run import TOLERANCE, PlannedRun
from nstorm.data.store.record import RunRecord
from nstorm.data.store.store import Store
from nstorm.data.store.stored_run import StoredRun
from nstorm.data.study.table import uniform

# what clips say of themselves, and what a run of a store has of its own
_OWN = ("frames", "start_frame", "start_time", "tr", "num_frames", "key", "image", "mask", "events")


Runs: TypeAlias = str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]] | None


@dataclass(frozen=True)
class ChosenRun:
    """A run of a store that somebody chose.

    Attributes:
        record: What the store says of the run.
        given: The item that it was chosen by; empty if it was a key.
        labels: What is known of the run, from both.
    """

    record: RunRecord
    given: Mapping[str, Any]
    labels: dict[str, Any]

    def planned(self, events: Any = None) -> PlannedRun:
        """Give the run to the planning of clips."""
        record = self.record
        return PlannedRun(self.labels, events, record.num_frames, record.tr, record.start_time, start_frame=0)

    def span(self) -> tuple[int, int] | None:
        """Give the frames that the item names.

        Raises:
            ValueError: The run has no such frames, or they are those of another recording.
        """
        if "frames" not in self.given:
            return None
        start, stop = map(int, self.given["frames"])
        if not 0 <= start < stop <= self.record.num_frames:
            raise ValueError(
                f"frames {start} to {stop} of {self.record.key} are asked for, but in the store it has "
                f"{self.record.num_frames}: plan the clips on the store (nstorm.data.stored_runs)"
            )
        tr, time = self.record.tr, self.record.start_time + start * self.record.tr
        given_tr, given_time = self.given.get("tr", tr), self.given.get("start_time", time)
        if max(abs(given_tr - tr), abs(given_time - time)) > TOLERANCE:
            raise ValueError(
                f"frame {start} of {self.record.key} is at {time:g} s in the store (tr {tr:g} s), but the item says at "
                f"{given_time:g} s (tr {given_tr:g} s): frames of a file are others where it was shortened or "
                "resampled, so plan the clips on the store (nstorm.data.stored_runs)"
            )
        return start, stop


def stored_runs(store: Store | str | PathLike[str], runs: Runs = None) -> list[PlannedRun]:
    """Give runs of a store, with their events, to :func:`nstorm.data.event_clips`.

    The clips that it plans are read by :class:`nstorm.data.ClipDataset`, as its ``runs``.

    Args:
        store: The store, or where it lies.
        runs: Which runs: their keys, or items, whose labels win over those of the store. By default all.

    Raises:
        ValueError: The store lacks some of the runs.

    Example:
        >>> import tempfile
        >>> from nstorm.data import HAXBY_DELAY, ClipDataset, Study, event_clips, haxby_runs, prepare, stored_runs
        >>> study = Study({"image": run.bold, "events": run.events} for run in haxby_runs()[:2])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = prepare(study, folder, progress=False)
        ...     clips = event_clips(stored_runs(store), delay=HAXBY_DELAY)
        ...     item = ClipDataset(store, runs=clips)[0]
        >>> len(clips), item["image"].shape, item["trial_type"], item["frames"]
        (16, torch.Size([1, 40, 20, 1, 9]), 'scissors', (6, 15))
    """
    store = store if isinstance(store, Store) else Store(store)
    return [
        run.planned(run.given.get("events") or _events(StoredRun(store.place, run.record)))
        for run in chosen_runs(store, runs)
    ]


def chosen_runs(store: Store, runs: Runs) -> list[ChosenRun]:
    """Find runs in a store by their keys or items; by default all.

    Their labels get the same keys, so that they can share a batch.

    Raises:
        ValueError: The store lacks some of the runs, or there are none.
    """
    runs = [runs] if isinstance(runs, str | Mapping) else runs
    by_folder = {store.place.below(record.folder): record for record in store.records.values()}
    chosen, missing = [], []
    for run in store.records if runs is None else runs:
        given = {} if isinstance(run, str) else run
        record = by_folder.get(image_file(given))
        if record is None:
            key = run if isinstance(run, str) else run_of(run)
            record = store.records.get(key)
            if record is None:
                missing.append(key)
                continue
        labels = {name: value for name, value in {**record.labels, **given}.items() if name not in _OWN}
        labels = {"image": store.place.below(record.folder), "key": record.key, **labels}
        chosen.append(ChosenRun(record, given, labels))
    if missing:
        raise ValueError(
            f"{store.place} lacks {len(missing)} of the runs ({listing(missing)}): prepare them, or choose among "
            "store.run_items()"
        )
    if not chosen:
        raise ValueError(f"no run of {store.place} is given: give at least one, or prepare a study first")
    first = chosen[0].labels.keys()
    if any(run.labels.keys() != first or any(value is None for value in run.labels.values()) for run in chosen):
        alike = uniform([run.labels for run in chosen])
        chosen = [replace(run, labels=labels) for run, labels in zip(chosen, alike, strict=True)]
    return chosen


def _events(run: StoredRun) -> list[Event] | None:
    found = run.attributes.get("events")
    if found is None:
        return None
    return [
        Event(event["onset"], math.nan if event["duration"] is None else event["duration"], event["trial_type"])
        for event in found
    ]
