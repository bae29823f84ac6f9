"""Clips of equal length around events."""

import math
from collections.abc import Sequence
from itertools import pairwise
from os import PathLike
from typing import Any

from nstorm.data.clips.events import Event, read_events
from nstorm.data.clips.planned_run import TOLERANCE, PlannedRun, RunLike, planned_runs


def event_clips(
    runs: RunLike | Sequence[RunLike],
    events: Sequence[Event] | str | PathLike[str] | None = None,
    *,
    delay: float,
    window: tuple[float, float] | None = None,
    labels: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    num_frames: int | None = None,
    allow_overlap: bool = False,
) -> list[dict[str, Any]]:
    """Cut one clip for each event of one or more runs.

    Frame ``k`` is acquired from ``k * TR`` to ``(k + 1) * TR``. An event holds the frames that lie entirely
    (to 1 ms) between ``onset + delay`` and ``onset + delay + duration``, or in its ``window`` after (before, if
    negative) ``onset + delay``; its clip is the first ``num_frames`` of them.

    A run is a path, a run in memory, or an item with one of them as its ``image`` (:func:`nstorm.data.run_item`). Of a
    file nothing but the header is read: its clips say which frames to read, and
    :class:`nstorm.data.transforms.LoadBOLDd` reads these. Clips of a run in memory are views of it: a change in
    place to one shows in the run and in the clips that overlap it.

    Args:
        runs: A run, or a list of run items each of which has ``events``: an ``events.tsv`` or a list of events.
        events: The ``events.tsv`` or the list of events of a single run, in place of those of its item.
        delay: Seconds from an onset to the response that is sought, about 5 where onsets are stimulus times.
            It belongs to the recording and has no default: the onsets of some recordings contain it already.
        window: First and last second of a clip, counted from ``onset + delay``: ``(0, 12)`` for the 12 s from there
            on. By default the event's own duration.
        labels: The classes in order. By default all trial types of these events, sorted; data sets made by
            several calls (training, test) need one list for all.
        ignore: Trial types to leave out, such as instructions or rest.
        num_frames: Length of every clip. By default that of the event that holds the fewest frames, among the runs of
            one repetition time, so that the clips can be batched.
        allow_overlap: Whether clips of different labels may share frames.

    Returns:
        An item for each event, in the order of the runs and their events, with all keys of its run but ``events``,
        and: ``image``, the path, or a MetaTensor ``(1, H, W, D, T)`` with the run's affine and meta; ``label``, an
        index into ``labels``; ``trial_type``; ``onset`` and ``duration`` in seconds; ``frames``, first and one past the
        last frame in the file, and ``start_frame`` (both left out for a run that was resampled in time);
        ``start_time`` and ``tr`` in seconds; ``subject``, ``session``, ``task``, ``acquisition``, ``direction`` and
        ``run``, from the BIDS name or ``""``.

    Raises:
        ValueError: There are no events, an event occurs twice, has no finite onset, an unknown trial type or no
            duration where that is needed, reaches beyond the run or holds too few frames; clips of different labels
            share frames; a run has no repetition time; an argument makes no sense; or the items cannot be batched.

    Example:
        >>> from nstorm.data import HAXBY_DELAY, haxby_runs
        >>> from nstorm.data.clips.event_locked import event_clips
        >>> from nstorm.data.clips.items import run_item
        >>> runs = [run_item(run.bold, events=run.events) for run in haxby_runs()]
        >>> clips = event_clips(runs, delay=HAXBY_DELAY)
        >>> len(clips), clips[0]["trial_type"], clips[0]["label"], clips[0]["frames"]
        (96, 'scissors', 5, (6, 15))

        A run in memory gives views of it:

        >>> from nstorm.data import load_bold, read_events
        >>> run = haxby_runs()[0]
        >>> clips = event_clips(load_bold(run.bold), read_events(run.events), delay=HAXBY_DELAY)
        >>> clips[0]["image"].shape
        torch.Size([1, 40, 20, 1, 9])
    """
    if not math.isfinite(delay) or delay < 0:
        raise ValueError(f"delay is {delay} s, but it has to be a finite number of seconds, 0 or more")
    if window is not None and not (all(map(math.isfinite, window)) and window[0] < window[1]):
        raise ValueError(f"window is {window} s, but it has to start before it stops, as (0, 12) does")
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}, but a clip has at least 1 frame")
    planned = planned_runs(runs)
    if events is not None and len(planned) > 1:
        raise ValueError(f"events are given for {len(planned)} runs at once: put them in the item of each run")

    found = [(run, event) for run in planned for event in _events_of(run, events) if event.trial_type not in ignore]
    if not found:
        raise ValueError(f"ignore={list(ignore)} leaves no event: keep at least one trial type")
    if labels is None:
        labels = sorted({event.trial_type for _, event in found})
    for run, event in found:
        if event.trial_type not in labels:
            raise ValueError(
                f"{_name(run, event)} has a trial type that is not among labels {list(labels)}: "
                "add it, or leave it out with ignore="
            )

    inside = [_frames_inside(run, event, delay, window) for run, event in found]
    fewest: dict[float, int] = {}
    for (run, _), frames in zip(found, inside, strict=True):
        # runs of another repetition time share no batch in any case
        fewest[run.tr] = min(len(frames), fewest.get(run.tr, len(frames)))
    clips = []
    for (run, event), frames in zip(found, inside, strict=True):
        length = num_frames or fewest[run.tr]
        if len(frames) < length:
            raise ValueError(
                f"{_name(run, event)} holds {len(frames)} frames, fewer than num_frames={length}: "
                "give a smaller num_frames, or leave the event out"
            )
        clips.append((run, event, frames[:length]))
    if not allow_overlap:
        _refuse_overlap(clips)
    return [
        run.clip(
            frames.start,
            len(frames),
            label=labels.index(event.trial_type),
            trial_type=event.trial_type,
            onset=event.onset,
            duration=event.duration,
        )
        for run, event, frames in clips
    ]


def _events_of(run: PlannedRun, given: Sequence[Event] | str | PathLike[str] | None) -> Sequence[Event]:
    found = run.events if given is None else given
    if found is None:
        raise ValueError(f"{run} has no events: give its item the key 'events', an events.tsv or a list of events")
    events: Sequence[Event] = read_events(found) if isinstance(found, str | PathLike) else found
    if not events:
        raise ValueError(f"events of {run} is empty: give at least one event")
    seen = set()
    for event in events:
        if not math.isfinite(event.onset):
            raise ValueError(f"{_name(run, event)} has no finite onset: correct it, or leave the event out")
        if (event.onset, event.trial_type) in seen:
            raise ValueError(f"{_name(run, event)} occurs twice: leave one of them out")
        seen.add((event.onset, event.trial_type))
    return events


def _frames_inside(run: PlannedRun, event: Event, delay: float, window: tuple[float, float] | None) -> range:
    if window is None and not math.isfinite(event.duration):
        raise ValueError(f"{_name(run, event)} has no duration: say with window= which seconds a clip holds")
    first, last = window or (0.0, event.duration)
    start, stop = event.onset + delay + first, event.onset + delay + last
    end = run.start_time + run.num_frames * run.tr
    if start < run.start_time - TOLERANCE or stop > end + TOLERANCE:
        raise ValueError(
            f"{_name(run, event)}, with its delay of {delay:g} s, lasts from {start:g} to {stop:g} s, but the run "
            f"from {run.start_time:g} to {end:g} s: leave the event out, or correct delay or window"
        )
    frames = run.frames_between(start, stop)
    if not frames:
        raise ValueError(
            f"{_name(run, event)} lasts {stop - start:g} s and holds no whole frame of {run.tr:g} s: "
            "leave the event out, merge it with its neighbours into a block, or give a longer window="
        )
    return frames


def _refuse_overlap(clips: Sequence[tuple[PlannedRun, Event, range]]) -> None:
    by_run: dict[int, list[tuple[PlannedRun, Event, range]]] = {}
    for clip in clips:
        by_run.setdefault(id(clip[0]), []).append(clip)
    for of_run in by_run.values():
        # clips of one run are equally long: if any two overlap, two neighbours of different labels do
        for (run, one, frames), (_, other, later) in pairwise(sorted(of_run, key=lambda clip: clip[2].start)):
            if one.trial_type != other.trial_type and later.start < frames.stop:
                start, stop = (run.start_time + frame * run.tr for frame in (later.start, frames.stop))
                raise ValueError(
                    f"{_name(run, one)} and the event {other.trial_type!r} at {other.onset:g} s share the frames "
                    f"from {start:g} to {stop:g} s: give a smaller num_frames or a shorter window, or "
                    "allow_overlap=True if a frame may count for both"
                )


def _name(run: PlannedRun, event: Event) -> str:
    return f"{run}: the event {event.trial_type!r} at {event.onset:g} s"
