"""Runs to write into stores."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nstorm.data import brain_mask, haxby_runs, load_bold, load_mask, rest_run
from nstorm.data.store.place import Place
from nstorm.data.store.record import RunRecord
from nstorm.data.store.store import Store
from nstorm.data.store.write import write_run

SHAPE = (3, 4, 5)
AFFINE = np.array([[-3.0, 0.25, 0, 90.5], [0.25, 3.5, -0.5, -126], [0, 0.5, 4, -72.25], [0, 0, 0, 1]])


def fabricated(num_frames: int = 50, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A run with a tSNR of 100 and some drift, in 37 of 60 voxels."""
    random = np.random.RandomState(seed)
    mask = np.zeros(SHAPE, bool)
    mask.flat[random.permutation(mask.size)[:37]] = True
    noise = 10 * random.randn(num_frames, 37) + random.randn(37) * np.linspace(-20, 20, num_frames)[:, None]
    return (1000 + noise).astype(np.float32), mask


def put(place: Place | Store, key: str = "sub-1", seed: int = 0, num_frames: int = 50, **changes: Any) -> RunRecord:
    """Write a fabricated run."""
    values, mask = fabricated(num_frames, seed)
    place = place.place if isinstance(place, Store) else place
    return write_run(place, key, values, mask, **{"affine": AFFINE, "tr": 1.5, **changes})


def rest() -> tuple[NDArray[np.float32], NDArray[np.bool_], torch.Tensor]:
    """The run without a task, all of the brain at 4 mm: values, mask and the run."""
    run = rest_run()
    bold = load_bold(run.bold)
    mask = load_mask(run.mask, like=bold)[0].numpy()
    return np.ascontiguousarray(bold.as_tensor().numpy()[:, mask]), mask, bold


def haxby(number: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_], torch.Tensor]:
    """A task run, one slice at native resolution: values, mask and the run."""
    bold = load_bold(haxby_runs()[number].bold)
    mask = brain_mask(bold, opening=0)[0].numpy()
    return np.ascontiguousarray(bold.as_tensor().numpy()[:, mask]), mask, bold


def correlations(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Correlation over time of each voxel, in double precision."""
    a, b = (each.astype(np.float64) - each.astype(np.float64).mean(0) for each in (a, b))
    return (a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0))
