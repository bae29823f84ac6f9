"""Small stores whose values say where they come from."""

from pathlib import Path
from typing import Any

import numpy as np

from nstorm.data.clips.items import run_of
from nstorm.data.store.store import Store
from nstorm.data.store.write import write_run

SHAPE = (5, 4, 3)
NUM_FRAMES = 30
TR = 2.0
AFFINE = np.array([[-3.0, 0, 0, 9], [0, 3, 0, -7], [0, 0, 4, 5], [0, 0, 0, 1]])


def brain(number: int) -> np.ndarray:
    """Brains of runs differ in size."""
    mask = np.random.RandomState(number).rand(*SHAPE) < 0.5
    mask[2, 2, 1] = True
    return mask


def values_of(number: int, mask: np.ndarray, num_frames: int = NUM_FRAMES) -> np.ndarray:
    """Values ``(T, V)``: 1000 times the number of the run, plus the frame, plus 64ths for the voxel."""
    time = np.arange(num_frames, dtype=np.float32)[:, None]
    return 1000 * number + time + np.flatnonzero(mask).astype(np.float32) / 64


def write_stored(store: Store, number: int, subject: str, run: str = "1", **about: Any) -> str:
    mask = about.pop("mask", brain(number))
    num_frames, tr = about.pop("num_frames", NUM_FRAMES), about.pop("tr", TR)
    start_time, attributes = about.pop("start_time", 0.0), about.pop("attributes", {})
    labels = {"subject": subject, "session": "", "task": "rest", "acquisition": "", "direction": "", "run": run}
    key = run_of(labels)
    write_run(
        store.place,
        key,
        values_of(number, mask, num_frames),
        mask,
        affine=AFFINE,
        tr=tr,
        start_time=start_time,
        labels={**labels, **about},
        dtype="float32",
        attributes=attributes,
    )
    return key


def make_store(path: Path, runs_by_subject: dict[str, int], **about: Any) -> Store:
    """Write a store of so many runs of each subject."""
    store = Store(path, create=True)
    number = 0
    for subject, runs in runs_by_subject.items():
        for run in range(1, runs + 1):
            write_stored(store, number, subject, str(run), **about)
            number += 1
    store.refresh()
    return store
