"""Runs and their events as tensors: reading, clips, normalisation, and the recordings shipped with nstorm."""

from nstorm.data.clips import event_clips, temporal_clips
from nstorm.data.embedded import HAXBY_DELAY, EmbeddedRestRun, EmbeddedRun, haxby_runs, rest_run
from nstorm.data.events import Event, merge_events, read_events
from nstorm.data.layout import time_axis, time_first, time_last
from nstorm.data.normalize import voxels_that_vary, zscore_voxels
from nstorm.data.reader import load_bold

__all__ = [
    "HAXBY_DELAY",
    "EmbeddedRestRun",
    "EmbeddedRun",
    "Event",
    "event_clips",
    "haxby_runs",
    "load_bold",
    "merge_events",
    "read_events",
    "rest_run",
    "temporal_clips",
    "time_axis",
    "time_first",
    "time_last",
    "voxels_that_vary",
    "zscore_voxels",
]
