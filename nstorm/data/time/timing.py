"""When the frames of a run were acquired, and meta that stays true when frames change."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from nstorm.data.layout import time_axis

FRAME_META = ("motion", "spikes", "dropped")
"""Entries of meta with one row for each frame: what augmentation has done to it."""


def name_of(image: Tensor, default: str = "bold") -> str:
    """Name an image in a message: by the file that it was read from, where it knows it."""
    return str(getattr(image, "meta", {}).get("filename_or_obj", default))


def repetition_time_of(bold: Tensor) -> float:
    """Give the repetition time of a run in seconds.

    Raises:
        ValueError: The run does not know it, or its frames are no longer evenly spaced.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold
        >>> from nstorm.data.time.timing import repetition_time_of
        >>> repetition_time_of(load_bold(haxby_runs()[0].bold))
        2.5
    """
    refuse_uneven(bold)
    meta = getattr(bold, "meta", {})
    if "tr" not in meta:
        raise ValueError(
            f"{name_of(bold)} has no repetition time: read it with nstorm.data.load_bold, "
            "or make it a MetaTensor with meta['tr'] in seconds"
        )
    return float(meta["tr"])


def refuse_uneven(bold: Tensor) -> None:
    """Refuse a run out of whose middle frames were taken.

    Raises:
        ValueError: The frames of the run are not evenly spaced.
    """
    if "frame_times" in getattr(bold, "meta", {}):
        raise ValueError(
            f"{name_of(bold)} has lost frames and those left are not evenly spaced, which this step needs: take this "
            "step first, or scrub with mode='interpolate'"
        )


def start_time_of(bold: Tensor) -> float:
    """Give the seconds from the start of the recording to the first frame of a run that has a repetition time."""
    meta = bold.meta  # type: ignore[attr-defined]
    return float(meta.get("start_time", meta.get("start_frame", 0) * meta["tr"]))


def with_meta(values: Tensor, like: Tensor, **changes: Any) -> Tensor:
    """Give values the meta of a run, a copy with some entries changed; a change to None removes the entry.

    Values that come from a plain tensor stay a plain tensor.
    """
    if not hasattr(like, "meta"):
        return values
    from monai.data.meta_tensor import MetaTensor

    meta = {key: value for key, value in {**deepcopy(like.meta), **changes}.items() if value is not None}
    operations = deepcopy(like.applied_operations)  # type: ignore[attr-defined]
    return MetaTensor(values, meta=meta, applied_operations=operations)


def keep_frames(bold: Tensor, keep: Tensor) -> Tensor:
    """Take frames out of a run, in either layout, and keep its times true (:func:`times_of_kept`).

    Args:
        bold: A run of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``.
        keep: The frames that stay, boolean of shape ``(T,)``.
    """
    kept = keep.nonzero()[:, 0]
    axis, plain = time_axis(bold), bold.as_subclass(Tensor)
    first = int(kept[0])
    if int(kept[-1]) - first < len(kept):
        # many times faster than gathering where time is the last axis
        values = plain.narrow(axis, first, len(kept)).clone(memory_format=torch.contiguous_format)
    else:
        values = plain.index_select(axis, kept.to(bold.device))
    return with_meta(values, bold, **times_of_kept(bold, keep))


def times_of_kept(bold: Tensor, keep: Tensor) -> dict[str, Any]:
    """Say what changes in the meta of a run of which only some frames are kept.

    Where they follow each other, ``start_time`` and ``start_frame`` move to the first of them. Otherwise the run has no
    repetition time any more: ``frame_times`` holds the time of every frame in seconds, in place of ``tr``.
    """
    kept = keep.nonzero()[:, 0]
    meta = getattr(bold, "meta", {})
    changes: dict[str, Any] = {name: meta[name][kept] for name in FRAME_META if name in meta}
    if "frame_times" in meta:
        times = meta["frame_times"][kept]
        return changes | {"frame_times": times, "start_time": float(times[0])}
    if "tr" not in meta:
        return changes
    times = start_time_of(bold) + kept.to(torch.float64) * float(meta["tr"])
    changes["start_time"] = float(times[0])
    if int(kept[-1] - kept[0]) >= len(kept):
        return changes | {"tr": None, "start_frame": None, "frame_times": times}
    if "start_frame" in meta or "start_time" not in meta:
        changes["start_frame"] = meta.get("start_frame", 0) + int(kept[0])
    return changes


def checked_frames(keep: Tensor, bold: Tensor) -> Tensor:
    """Check that ``keep`` says of every frame of a run whether it stays, and that some do.

    Raises:
        ValueError: It does not.
    """
    num_frames = bold.shape[time_axis(bold)]
    if keep.dtype != torch.bool or keep.shape != (num_frames,):
        raise ValueError(
            f"keep has dtype {keep.dtype} and shape {tuple(keep.shape)}, but it has to be a boolean tensor with one "
            f"value for each of the {num_frames} frames of {name_of(bold)}: True for those that stay"
        )
    if not keep.any():
        raise ValueError(
            f"keep leaves none of the {num_frames} frames of {name_of(bold)}: loosen the threshold, or leave "
            "the run out"
        )
    return keep.as_subclass(Tensor).cpu()
