"""What the planning of clips knows of a run: its frames in time, whether it is a file or in memory."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from nstorm.data.clips.items import image_file, run_item
from nstorm.data.files.reader import BOLDFile
from nstorm.data.layout import time_axis, time_last
from nstorm.data.time.timing import FRAME_META, repetition_time_of, start_time_of

if TYPE_CHECKING:
    import monai.data.meta_tensor

# Onsets are often written to the millisecond.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run whose frame ``k`` is acquired from ``start_time + k * tr`` on.

    Attributes:
        item: The run item without its ``events``.
        events: What the item had for them.
        num_frames: Number of frames.
        tr: Seconds from frame to frame.
        start_time: Seconds from the start of the recording to the first frame.
        start_frame: Index of the first frame in the file; None where frames were resampled.
    """

    item: dict[str, Any]
    events: Any
    num_frames: int
    tr: float
    start_time: float
    start_frame: int | None

    def __str__(self) -> str:
        return image_file(self.item) or "the run"

    def frames_within(self, seconds: float) -> int:
        """Count the whole frames that fit in a time; none in one that is not finite."""
        return math.floor((seconds + TOLERANCE) / self.tr) if math.isfinite(seconds) else 0

    def frames_between(self, start: float, stop: float) -> range:
        """Find the frames that lie entirely, to 1 ms, between two times of the recording."""
        first = math.ceil((start - self.start_time - TOLERANCE) / self.tr)
        return range(first, self.frames_within(stop - self.start_time))

    def clip(self, start: int, num_frames: int, **labels: Any) -> dict[str, Any]:
        """Make the item of a clip: a view of a run in memory, or what a file needs to be read later."""
        labels["tr"] = self.tr
        labels["start_time"] = self.start_time + start * self.tr
        if self.start_frame is not None:
            first = self.start_frame + start
            labels["start_frame"] = first
            labels["frames"] = (first, first + num_frames)
        for key in labels:
            if key in self.item:
                raise ValueError(f"the run item of {self} has the key {key!r}, which clips set: give it another name")
        clip = {**self.item, **labels}
        image = self.item["image"]
        if not isinstance(image, str):
            clip["image"] = _view(image, start, num_frames, labels)
        return clip


RunLike: TypeAlias = str | PathLike[str] | Tensor | Mapping[str, Any] | PlannedRun


def planned_runs(runs: RunLike | Sequence[RunLike]) -> list[PlannedRun]:
    """Look at runs without reading more of a file than its header."""
    if isinstance(runs, str | PathLike | Tensor | Mapping | PlannedRun):
        runs = [runs]
    planned = [_planned(run) for run in runs]
    if not planned:
        raise ValueError("runs is empty: give at least one run")
    for run in planned:
        for key, value in run.item.items():
            if value is None:
                raise ValueError(
                    f"{key} of {run} is None, which cannot be batched: leave the key out of all items, "
                    "or write '' for a text and NaN for a number that is not known"
                )
        if run.item.keys() != planned[0].item.keys():
            odd = sorted(run.item.keys() ^ planned[0].item.keys())
            raise ValueError(
                f"only one of {planned[0]} and {run} has {', '.join(odd)}, so that their clips cannot share a batch: "
                "give all runs the same keys"
            )
    return planned


def _planned(run: RunLike) -> PlannedRun:
    if isinstance(run, PlannedRun):
        return run
    if isinstance(run, Mapping) and "image" not in run:
        raise KeyError(f"a run item has only the keys {list(run)}: give it the key 'image', a path or a run in memory")
    item = run_item(**run) if isinstance(run, Mapping) else run_item(run)
    events = item.pop("events", None)
    image = item["image"]
    if not isinstance(image, Tensor):
        file = BOLDFile(image, tr=item.pop("tr", None))
        return PlannedRun(item, events, file.num_frames, file.tr, start_time=0.0, start_frame=0)

    num_frames = image.shape[time_axis(image)]
    tr = repetition_time_of(image)
    if not (math.isfinite(tr) and tr > 0):
        raise ValueError(f"meta['tr'] of {image_file(item) or 'the run'} is {tr:g}: set it to the seconds of a frame")
    # A start in time alone is left by resampling: its frames are none of the file's.
    meta = image.meta  # type: ignore[attr-defined]
    start_frame = None if "start_time" in meta and "start_frame" not in meta else int(meta.get("start_frame", 0))
    return PlannedRun(item, events, num_frames, tr, start_time_of(image), start_frame)


def _view(
    run: "monai.data.meta_tensor.MetaTensor", start: int, num_frames: int, labels: dict[str, Any]
) -> "monai.data.meta_tensor.MetaTensor":
    from monai.data.meta_tensor import MetaTensor

    placed: dict[str, Any] = {key: labels[key] for key in ("start_frame", "start_time") if key in labels}
    placed |= {key: run.meta[key][start : start + num_frames] for key in FRAME_META if key in run.meta}
    return MetaTensor(
        time_last(run.as_tensor())[..., start : start + num_frames],
        meta={**deepcopy(run.meta), **placed},
        applied_operations=deepcopy(run.applied_operations),
    )
