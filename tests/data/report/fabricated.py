"""Studies made from a shipped recording, each run with noise and a mask of its own, and some with planted faults."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nstorm.data import load_bold, load_mask, rest_run
from nstorm.data.report.quality import quality_of
from nstorm.data.store.store import Store
from nstorm.data.store.write import write_run

NUM_FRAMES = 100
AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])
# run: what the report says of it
FAULTS = {
    "spikes": "median temporal signal-to-noise ratio",
    "shifted-mask": "overlap of the mask with the mean mask (Dice)",
    "small-mask": "volume of the mask",
    "half": "frames",
    "slow": "TR",
    "flipped": "grid",
    "moved": "share of frames displaced by more than 0.5 mm",
    "constant": "no voxel changes over time",
}


@cache
def _recording() -> tuple[np.ndarray, np.ndarray]:
    bold = load_bold(rest_run().bold).numpy()[:, ::2, ::2, ::2]
    mask = load_mask(rest_run().mask).numpy()[0, ::2, ::2, ::2]
    return bold, mask & (bold.std(0) > 0)


def add_run(
    store: Store, key: str, seed: int, fault: str = "", labels: dict[str, Any] | None = None, *, measured: bool = True
) -> None:
    random = np.random.default_rng(seed)
    bold, mask = _recording()
    std = bold.std(0)
    bold = np.roll(bold, random.integers(len(bold)), 0)[:NUM_FRAMES]
    bold = bold + (0.5 * std * random.standard_normal(bold.shape)).astype(np.float32)
    mask = mask & (random.random(mask.shape) > 0.03)
    displacement = np.abs(random.normal(0.1, 0.05, NUM_FRAMES)).astype(np.float32)
    displacement[random.integers(1, NUM_FRAMES, 3)] = 0.6
    displacement[0] = np.nan
    affine, tr = AFFINE.copy(), 1.5
    if fault == "spikes":
        bold[[20, 21, 50, 80, 90]] += 6 * std
    elif fault == "shifted-mask":
        mask = np.roll(mask, 3, 1)
    elif fault == "small-mask":
        mask[:, :, :10] = False
    elif fault == "half":
        bold, displacement = bold[: NUM_FRAMES // 2], displacement[: NUM_FRAMES // 2]
    elif fault == "slow":
        tr = 2.0
    elif fault == "flipped":
        affine[0] *= -1
    elif fault == "moved":
        displacement[30:70] = 0.8
    elif fault == "constant":
        bold[:] = bold[0]
    values = np.ascontiguousarray(bold[:, mask], np.float32)
    extras = quality_of(values, mask, framewise_displacement=displacement) if measured else None
    write_run(
        store.place, key, values, mask, affine=affine, tr=tr, labels={"task": "rest", **(labels or {})}, extras=extras
    )


def fabricated_store(folder: Path, num_clean: int, faults: Iterable[str] = (), *, measured: bool = True) -> Store:
    """Runs ``sub-00`` and so on, and those with faults, which are named by them."""
    store = Store(folder / "study", create=True)
    for number in range(num_clean):
        add_run(store, f"sub-{number:02d}", number, labels={"subject": f"{number:02d}"}, measured=measured)
    for number, fault in enumerate(faults, num_clean):
        add_run(store, fault, number, fault, {"subject": fault}, measured=measured)
    store.refresh()
    return store
