"""Which clips a dataset has."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nstorm.data.clips.items import listing
from nstorm.data.clips.planned_run import PlannedRun


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """Clips by number: ``length`` frames of the run number ``run`` that lie anywhere from ``first`` to before ``last``.

    A clip as long as the frames it may lie in is always the same. Arrays, since a study may have millions of clips, and
    the workers of a loader each get them all.
    """

    run: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    length: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.run)

    @property
    def draws(self) -> bool:
        """Whether some clips may lie at more than one place."""
        return bool((self.last - self.first > self.length).any())


def plan_clips(
    runs: Sequence[PlannedRun],
    spans: Sequence[tuple[int, int] | None],
    *,
    num_frames: int | None,
    seconds: float | None,
    stride: int | float | None,
    clips_per_run: int,
) -> ClipPlan:
    """Plan the clips of runs, each within its span of frames, by default within the whole run.

    Raises:
        ValueError: A length, stride or number makes no sense, or runs are too short or of too different TRs.
    """
    if num_frames is not None and seconds is not None:
        raise ValueError(f"num_frames is {num_frames} and seconds is {seconds}: give the length as one of the two")
    if clips_per_run < 1 or (stride is not None and clips_per_run != 1):
        raise ValueError(
            f"clips_per_run is {clips_per_run} and stride is {stride}: draw one or more random clips from each run, or "
            "give a stride for all its clips one after another"
        )
    within = [span or (0, run.num_frames) for run, span in zip(runs, spans, strict=True)]
    if num_frames is None and seconds is None:
        if any(span is None for span in spans):
            raise ValueError("no length is given: give num_frames or seconds, or runs whose items name their frames")
        lengths = [stop - start for start, stop in within]
    else:
        lengths = _lengths(runs, num_frames, seconds)
        _refuse_short(runs, within, lengths, "seconds" if num_frames is None else "num_frames")

    starts, stops = np.array(within, np.int64).T
    if stride is None:
        number = np.repeat(np.arange(len(runs)), clips_per_run)
        return ClipPlan(number, starts[number], stops[number], np.array(lengths)[number])
    firsts = [
        np.arange(start, stop - length + 1, _step(run, stride, in_seconds=seconds is not None))
        for run, (start, stop), length in zip(runs, within, lengths, strict=True)
    ]
    number = np.repeat(np.arange(len(runs)), [len(first) for first in firsts])
    first, length = np.concatenate(firsts), np.array(lengths)[number]
    return ClipPlan(number, first, first + length, length)


def _lengths(runs: Sequence[PlannedRun], num_frames: int | None, seconds: float | None) -> list[int]:
    if seconds is None:
        if num_frames is None or num_frames < 1 or num_frames != int(num_frames):
            raise ValueError(f"num_frames is {num_frames}, but a clip has one or more whole frames")
        return [int(num_frames)] * len(runs)
    by_tr = {run.tr: run.frames_within(seconds) for run in runs}
    if min(by_tr.values()) < 1:
        raise ValueError(f"a clip of {seconds:g} s holds no whole frame at a TR of {max(by_tr):g} s: make it longer")
    if len(set(by_tr.values())) > 1:
        counts = ", ".join(f"{length} frames at {tr:g} s" for tr, length in sorted(by_tr.items()))
        raise ValueError(
            f"clips of {seconds:g} s differ in length, since the runs differ in TR ({counts}), and cannot share a "
            "batch: prepare the study with one tr, or make a dataset for each TR"
        )
    return [by_tr[run.tr] for run in runs]


def _refuse_short(
    runs: Sequence[PlannedRun], within: Sequence[tuple[int, int]], lengths: Sequence[int], argument: str
) -> None:
    short = [
        f"{run.item['key']}: {stop - start}"
        for run, (start, stop), length in zip(runs, within, lengths, strict=True)
        if stop - start < length
    ]
    if short:
        raise ValueError(
            f"{len(short)} of {len(runs)} runs have fewer than the {lengths[0]} frames of a clip "
            f"({listing(short, 20)}): give a smaller {argument}, or leave them out, as "
            f"runs=[item for item in store.run_items() if item['num_frames'] >= {lengths[0]}]"
        )


def _step(run: PlannedRun, stride: int | float, *, in_seconds: bool) -> int:
    step = run.frames_within(stride) if in_seconds else stride
    if not math.isfinite(step) or step < 1 or step != int(step):
        unit = "s" if in_seconds else "frames"
        raise ValueError(f"stride is {stride:g} {unit}, but clips start one or more whole frames after each other")
    return int(step)
