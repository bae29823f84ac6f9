"""How the course of voxels over time correlates with that in the file it was made from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.store.published_format import quantized, z_scores
from benchmarks.store.recordings import Recording
from nstorm.data import Study, load_bold, prepare, reorient

BOUND = 0.9999


def correlations(recording: Recording, folder: Path) -> dict[str, NDArray[np.float64]]:
    """Correlate all voxels of a recording as each format gives them back with what its files hold."""
    # the twelve Haxby runs have no mask on disk, and the store finds one in each
    store = prepare(Study(recording.items), folder, preset="native", progress=False)
    found: dict[str, list[NDArray[np.float64]]] = {}
    for item, run in zip(store.run_items(), store.values(), strict=True):
        source = next(given for given in recording.items if all(given[k] == item[k] for k in ("subject", "run")))
        bold = reorient(load_bold(source["image"]), "RAS")
        values = bold.as_subclass(Tensor)[:, torch.from_numpy(run.mask)]
        scores = z_scores(values)
        codes, step = quantized(scores)
        for name, given_back in {
            f"ours, {run.record.dtype}": torch.from_numpy(run.read_brain()),
            "data.pt": codes * step,
            "frame_*.pt, float16": scores.half(),
        }.items():
            found.setdefault(name, []).append(_correlation(values, given_back))
    return {name: np.concatenate(each) for name, each in found.items()}


def table(recordings: Sequence[Recording], folder: Path) -> list[str]:
    lines = [
        f"| recording | voxels | format | lowest | 1st percentile | median | below {BOUND} |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, recording in enumerate(recordings):
        for name, values in correlations(recording, folder / f"fidelity{number}").items():
            numbers = " | ".join(f"{value:.6f}" for value in np.quantile(values, (0, 0.01, 0.5)))
            share = (values < BOUND).mean()
            lines.append(f"| {recording.name} | {len(values):,} | {name} | {numbers} | {share:.2%} |")
    return lines


def _correlation(one: Tensor, other: Tensor) -> NDArray[np.float64]:
    """Correlate over time, a voxel at a time; voxels that are constant in the file are left out."""
    one, other = (values.double() - values.double().mean(0) for values in (one, other))
    product = one.norm(dim=0) * other.norm(dim=0)
    # a voxel that became constant has nothing of its course left
    result = torch.where(product > 0, (one * other).sum(0) / product, 0.0)
    return result[one.norm(dim=0) > 0].numpy()
