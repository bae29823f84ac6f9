"""Doubling one size of the scan at a time: its cost is linear in each."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.measure import seconds_in_turns
from benchmarks.peers import scan_inputs

FIGURE = Path(__file__).parent / "figures" / "scan_sweep.png"

_BASE = {"batch": 16, "channels": 64, "length": 512, "states": 16}
_SIZES = {
    "batch": [2, 4, 8, 16, 32, 64],
    "channels": [16, 32, 64, 128, 256, 512],
    "length": [64, 128, 256, 512, 1024, 2048, 4096],
    "states": [4, 8, 16, 32, 64],
}

# forward + backward of one contestant
Step = Callable[[dict[str, Tensor]], object]
# ns a state update by size, of each contestant
Sweep = dict[str, dict[int, float]]


def run(scans: Mapping[str, Step], rounds: int) -> None:
    """Print ns a state update for all sizes, and draw them."""
    sweeps = {}
    for axis, sizes in _SIZES.items():
        others = ", ".join(f"{name} {size}" for name, size in _BASE.items() if name != axis)
        print(f"\nns a state update, forward + backward, {others}\n")
        print(f"| {axis} | {' | '.join(map(str, sizes))} |\n|{'---|' * (len(sizes) + 1)}")
        sweeps[axis] = _measure(axis, sizes, scans, rounds)
        for name, found in sweeps[axis].items():
            print(f"| {name} | {' | '.join(f'{x:.2f}' for x in found.values())} |")
    _draw(sweeps)


def _measure(axis: str, sizes: list[int], scans: Mapping[str, Step], rounds: int) -> Sweep:
    found: Sweep = {name: {} for name in scans}
    for size in sizes:
        shape = tuple({**_BASE, axis: size}.values())
        x = scan_inputs(*shape)
        calls = {name: partial(scan, x) for name, scan in scans.items()}
        for name, seconds in seconds_in_turns(calls, rounds).items():
            found[name][size] = min(seconds) * 1e9 / math.prod(shape)
    return found


def _draw(sweeps: dict[str, Sweep]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels: Any = figure.subplots(1, len(sweeps), sharey=True)
    for axes, (axis, sweep) in zip(panels, sweeps.items(), strict=True):
        for name, found in sweep.items():
            axes.plot(list(found), list(found.values()), "o-", label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set(xlabel=axis)
        axes.grid(color="#eeeeee")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ns a state update,\nforward + backward")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=120)
    print(f"\nfigure in {FIGURE}")
