"""Clips of equal length, cut from a run: one for each event, or one after another."""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nstorm.data.events import Event

if TYPE_CHECKING:
    import monai.data.meta_tensor

TOLERANCE = 1e-3


def event_clips(
    bold: Tensor,
    events: Sequence[Event],
    *,
    delay: float,
    labels: Sequence[str] | None = None,
    num_frames: int | None = None,
) -> list[dict[str, Any]]:
    """Cut one clip for each event from a run.

    Frame ``k`` is acquired from ``k * TR`` to ``(k + 1) * TR``. An event holds the frames that lie entirely
    (to 1 ms) between ``onset + delay`` and ``onset + delay + duration``; its clip is the first
    ``num_frames`` of them.

    The clips are views of the run's memory: a change in place to one shows in the run and in the clips that
    overlap it.

    Args:
        bold: A run of shape ``(T, H, W, D)`` with ``meta["tr"]``, as :func:`nstorm.data.load_bold` gives it.
        events: The events of the run.
        delay: Seconds from an onset to the response that is sought, about 5 where onsets are stimulus times.
            It belongs to the recording and has no default: the onsets of some recordings contain it already.
        labels: The classes in order. By default the trial types of these events, sorted; runs whose trial
            types differ need one list for all.
        num_frames: Length of every clip. By default that of the event that holds the fewest frames, so that
            the clips can be batched.

    Returns:
        An item for each event: ``image``, a MetaTensor ``(1, H, W, D, T)`` with the run's affine and meta and
        ``meta["start_frame"]``; ``label``, an index into ``labels``; ``trial_type``; ``onset`` in seconds.

    Raises:
        ValueError: The run has another shape or no repetition time, there are no events, a trial type is not
            in ``labels``, an event reaches beyond the run or holds too few frames, or ``delay`` is negative.

    Example:
        >>> from nstorm.data import HAXBY_DELAY, event_clips, haxby_runs, load_bold, read_events
        >>> run = haxby_runs()[0]
        >>> clips = event_clips(load_bold(run.bold), read_events(run.events), delay=HAXBY_DELAY)
        >>> len(clips), clips[0]["trial_type"], clips[0]["label"]
        (8, 'scissors', 5)
        >>> clips[0]["image"].shape
        torch.Size([1, 40, 20, 1, 9])
    """
    run = _checked_run(bold)
    if not events:
        raise ValueError("events is empty: give at least one event")
    if not math.isfinite(delay) or delay < 0:
        raise ValueError(f"delay is {delay} s, but it has to be a finite number of seconds, 0 or more")
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}, but a clip has at least 1 frame")
    if labels is None:
        labels = sorted({event.trial_type for event in events})
    for event in events:
        if event.trial_type not in labels:
            raise ValueError(
                f"{_name(event)} has a trial type that is not among labels {list(labels)}: "
                "add it, or leave the event out"
            )

    frames = [_frames_inside(event, delay, run) for event in events]
    if num_frames is None:
        num_frames = min(len(inside) for inside in frames)
    for event, inside in zip(events, frames, strict=True):
        if len(inside) < num_frames:
            raise ValueError(
                f"{_name(event)} holds {len(inside)} frames, fewer than num_frames={num_frames}: "
                "give a smaller num_frames, or leave the event out"
            )
    return [
        {
            "image": _clip(run, inside.start, num_frames),
            "label": labels.index(event.trial_type),
            "trial_type": event.trial_type,
            "onset": event.onset,
        }
        for event, inside in zip(events, frames, strict=True)
    ]


def temporal_clips(bold: Tensor, num_frames: int, *, stride: int | None = None) -> list[dict[str, Any]]:
    """Cut a run into clips of ``num_frames`` frames; frames that no longer fill a clip are left out.

    The clips are views of the run's memory: a change in place to one shows in the run and in the clips that
    overlap it.

    Args:
        bold: A run of shape ``(T, H, W, D)`` with ``meta["tr"]``, as :func:`nstorm.data.load_bold` gives it.
        num_frames: Length of a clip.
        stride: Frames from the start of one clip to the start of the next. By default ``num_frames``, so that
            clips do not overlap.

    Returns:
        An item for each clip: ``image``, a MetaTensor ``(1, H, W, D, num_frames)`` with the run's affine and
        meta and ``meta["start_frame"]``.

    Raises:
        ValueError: The run has another shape or no repetition time, is shorter than a clip, or a number is
            below 1.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold, temporal_clips
        >>> clips = temporal_clips(load_bold(haxby_runs()[0].bold), 20)
        >>> len(clips), clips[1]["image"].meta["start_frame"]
        (6, 20)
        >>> clips[1]["image"].shape
        torch.Size([1, 40, 20, 1, 20])
    """
    run = _checked_run(bold)
    if stride is None:
        stride = num_frames
    if num_frames < 1 or stride < 1:
        raise ValueError(f"num_frames ({num_frames}) and stride ({stride}) have to be 1 or more")
    if num_frames > len(run):
        raise ValueError(f"num_frames ({num_frames}) has to be at most the number of frames of the run, {len(run)}")
    return [{"image": _clip(run, start, num_frames)} for start in range(0, len(run) - num_frames + 1, stride)]


def _checked_run(bold: Tensor) -> "monai.data.meta_tensor.MetaTensor":
    from monai.data.meta_tensor import MetaTensor

    if bold.ndim != 4:
        raise ValueError(f"bold has shape {tuple(bold.shape)}, but a run has four axes (T, H, W, D)")
    if not isinstance(bold, MetaTensor) or "tr" not in bold.meta:
        raise ValueError(
            "bold has no repetition time: read it with nstorm.data.load_bold, "
            "or make it a MetaTensor with meta['tr'] in seconds"
        )
    return bold


def _frames_inside(event: Event, delay: float, run: "monai.data.meta_tensor.MetaTensor") -> range:
    tr = float(run.meta["tr"])
    start = event.onset + delay
    stop = start + event.duration
    if start < -TOLERANCE or stop > len(run) * tr + TOLERANCE:
        raise ValueError(
            f"{_name(event)}, with its delay of {delay:g} s, lasts from {start:g} to {stop:g} s, but the run "
            f"from 0 to {len(run) * tr:g} s: leave the event out, or correct delay"
        )
    frames = range(math.ceil((start - TOLERANCE) / tr), math.floor((stop + TOLERANCE) / tr))
    if not frames:
        raise ValueError(
            f"{_name(event)} lasts {event.duration:g} s and holds no whole frame of {tr:g} s: "
            "leave the event out, or merge it with its neighbours into a block"
        )
    return frames


def _clip(run: "monai.data.meta_tensor.MetaTensor", start: int, num_frames: int) -> "monai.data.meta_tensor.MetaTensor":
    from monai.data.meta_tensor import MetaTensor

    frames = run.as_tensor()[start : start + num_frames]
    return MetaTensor(
        frames.permute(1, 2, 3, 0)[None],
        meta={**deepcopy(run.meta), "start_frame": start},
        applied_operations=deepcopy(run.applied_operations),
    )


def _name(event: Event) -> str:
    return f"the event {event.trial_type!r} at {event.onset:g} s"
