"""Clips of equal length from runs: one after another, or at random."""

import math
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from nstorm.data.clips.items import recording_of
from nstorm.data.clips.planned_run import PlannedRun, RunLike, planned_runs


def strided_clips(
    runs: RunLike | Sequence[RunLike],
    num_frames: int | None = None,
    *,
    seconds: float | None = None,
    stride: int | float | None = None,
) -> list[dict[str, Any]]:
    """Cut runs into clips one after another; frames that no longer fill a clip are left out.

    A run is a path, a run in memory, or an item with one of them as its ``image`` (:func:`nstorm.data.run_item`). Of a
    file nothing but the header is read: its clips say which frames to read, and
    :class:`nstorm.data.transforms.LoadBOLDd` reads these. Clips of a run in memory are views of it: a change in
    place to one shows in the run and in the clips that overlap it.

    Args:
        runs: A run or a list of runs.
        num_frames: Length of a clip in frames.
        seconds: Length of a clip in seconds, in place of ``num_frames``: the whole frames that fit, so that runs of
            different repetition times give clips that last equally long.
        stride: From the start of a clip to the start of the next, in frames if the length is in frames and in seconds
            if it is in seconds. By default the length, so that clips do not overlap.

    Returns:
        An item for each clip, with all keys of its run but ``events``, and: ``image``, the path, or a MetaTensor
        ``(1, H, W, D, num_frames)`` with the run's affine and meta; ``frames``, first and one past the last frame in
        the file, and ``start_frame`` (both left out for a run that was resampled in time); ``start_time`` and ``tr`` in
        seconds; ``subject``, ``session``, ``task``, ``acquisition``, ``direction`` and ``run``, from the BIDS name or
        ``""``. These say what is read; transforms that crop or shift time note it in the meta of the image.

    Raises:
        ValueError: Not one of ``num_frames`` and ``seconds`` is given, a length or ``stride`` is less than a frame, a
            run is shorter than a clip or has no repetition time, or the items cannot be batched: a value is None, or a
            key is missing in one of them or is one that clips set.

    Example:
        >>> from nstorm.data import haxby_runs
        >>> from nstorm.data.clips.cut import strided_clips
        >>> clips = strided_clips([run.bold for run in haxby_runs()], 20)
        >>> len(clips), clips[7]["subject"], clips[7]["run"], clips[7]["frames"], clips[7]["start_time"]
        (72, '001', '02', (20, 40), 50.0)
    """
    clips = []
    for run in planned_runs(runs):
        length = _length(run, num_frames, seconds)
        step = _step(run, length, stride, in_seconds=seconds is not None)
        clips += [run.clip(start, length) for start in range(0, run.num_frames - length + 1, step)]
    return clips


def random_clips(
    runs: RunLike | Sequence[RunLike],
    num_frames: int | None = None,
    *,
    seconds: float | None = None,
    per_run: int,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Cut a fixed number of clips from each run, at starts drawn uniformly and independently: they may overlap.

    The draw belongs to the seed, the subject, session, task and so on, and the name of the file: it is the same in
    every epoch, and stays the same when runs are added. For validation and test that is what is wanted;
    :class:`nstorm.data.transforms.RandLoadClipd` draws anew each time a run is read, as training may want it.

    Args:
        runs: A run or a list of runs, as in :func:`strided_clips`.
        num_frames: Length of a clip in frames.
        seconds: Length of a clip in seconds, in place of ``num_frames``.
        per_run: Number of clips of each run.
        seed: Seed of the draw.

    Returns:
        Items as :func:`strided_clips` gives them.

    Raises:
        ValueError: As for :func:`strided_clips`, or ``per_run`` is below 1.

    Example:
        >>> from nstorm.data import haxby_runs
        >>> from nstorm.data.clips.cut import random_clips
        >>> clips = random_clips(haxby_runs()[0].bold, 20, per_run=3)
        >>> [clip["frames"] for clip in clips]
        [(20, 40), (15, 35), (20, 40)]
    """
    if per_run < 1:
        raise ValueError(f"per_run is {per_run}: draw at least one clip from each run")
    clips = []
    for run in planned_runs(runs):
        length = _length(run, num_frames, seconds)
        # HCP's files have the same names for every subject
        digest = sha256(f"{seed}/{recording_of(run.item)}/{Path(str(run)).name}".encode()).digest()
        random = np.random.RandomState(int.from_bytes(digest[:4], "big"))
        starts = random.randint(0, run.num_frames - length + 1, per_run, dtype=np.int64)
        clips += [run.clip(int(start), length) for start in starts]
    return clips


def _step(run: PlannedRun, length: int, stride: int | float | None, *, in_seconds: bool) -> int:
    if stride is None:
        return length
    step = run.frames_within(stride) if in_seconds else _whole(stride)
    if step < 1:
        unit = "s" if in_seconds else "frames"
        raise ValueError(f"stride is {stride:g} {unit}, but clips start one or more whole frames after each other")
    return step


def _length(run: PlannedRun, num_frames: int | None, seconds: float | None) -> int:
    if num_frames is not None and seconds is None:
        length, asked = _whole(num_frames), f"{num_frames} frames"
    elif seconds is not None and num_frames is None:
        length, asked = run.frames_within(seconds), f"{seconds:g} s"
    else:
        raise ValueError(f"num_frames is {num_frames} and seconds is {seconds}: give the length as one of the two")
    if length < 1:
        raise ValueError(f"a clip of {asked} holds no whole frame of {run} (tr {run.tr:g} s): make it longer")
    if length > run.num_frames:
        raise ValueError(
            f"{run} has {run.num_frames} frames ({run.num_frames * run.tr:g} s), fewer than a clip of {asked}: "
            "give a shorter length, or leave the run out"
        )
    return length


def _whole(frames: int | float) -> int:
    return int(frames) if math.isfinite(frames) and frames == int(frames) else 0
