"""A step of masked pre-training on a CPU: `python -m benchmarks.pretrain`.

For clips of 96 x 96 x 96 x 20 (2 mm) and 48 x 56 x 48 x 20 (4 mm), with and without a brain mask: the median time of a
step (mask drawn, forward, loss, backward, clipping, optimizer), the largest resident memory of a process that does
nothing else, and what an epoch over 28.65 million frames, the published pre-training, would take at that speed. Every
case is a process of its own. With a brain mask, regions of shifted windows are kept apart too (`boundary="reset"`).
In the same run, as peers: the same step with the scan in plain PyTorch operations (`--peers`), and masks drawn as the
published code does, in numpy on the host, one sample after the other.
"""

import argparse
import json
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import machine, median_seconds, peak_resident_bytes, seconds_in_turns
from benchmarks.nets import brain_like_mask
from nstorm.layers import AtlasMask, BlockMask, FrameMask, RandomMask, TubeMask, WindowMask
from nstorm.nets import NeuroSTORMMAE
from nstorm.scan import use_backend
from nstorm.workflows import weight_decay_groups

FRAMES = 28_650_000
# the same patches in mm at both resolutions, so the same tokens to a brain
CASES = {"2 mm": ((96, 96, 96, 20), (6, 6, 6, 1)), "4 mm": ((48, 56, 48, 20), (3, 3, 3, 1))}


def brain_of(size: tuple[int, ...]) -> Tensor:
    """An ellipsoid as large as the MNI152 brain in a grid of this size: the cube's, cut along h and d where smaller."""
    cube = brain_like_mask(96 if size[0] == 96 else 48)
    whole = torch.zeros(size[:3], dtype=torch.bool)
    start = (size[1] - cube.shape[1]) // 2
    whole[:, start : start + cube.shape[1]] = cube
    return whole


def measure(name: str, masked: bool, backend: str, repeats: int) -> dict[str, float]:
    """Time the step of a case in this process."""
    size, patch = CASES[name]
    torch.manual_seed(0)
    net = NeuroSTORMMAE(size, patch_size=patch, boundary="reset" if masked else "wrap")
    clip = torch.randn(1, 1, *size)
    brain = brain_of(size) if masked else None
    optimizer = torch.optim.AdamW(weight_decay_groups(net, 0.05), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        net(clip, brain).loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    with use_backend(backend):
        seconds = timeit.timeit(step, number=1) if repeats == 1 else median_seconds(step, repeats)
    return {"seconds": seconds, "peak": peak_resident_bytes()}


def published_window_mask(batch: int, num_windows: int, ratio: float) -> Tensor:
    """Draw windows to hide as the published code does: shuffled in numpy, a sample at a time."""
    masks = np.zeros((batch, num_windows))
    hidden = int(num_windows * ratio)
    for row in masks:
        row[:] = np.hstack([np.zeros(num_windows - hidden), np.ones(hidden)])
        np.random.shuffle(row)  # noqa: NPY002
    return torch.from_numpy(masks).bool()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="also the scan in plain PyTorch operations (minutes)")
    parser.add_argument("--case", nargs=3, metavar=("NAME", "MASKED", "BACKEND"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.case:
        name, masked, backend = args.case
        print(json.dumps(measure(name, masked == "masked", backend, args.repeats)))
        return

    print(machine())
    print(f"NeuroSTORMMAE, 7.7 million parameters, batch 1, float32; {FRAMES / 1e6:.2f} million frames\n")
    print("| clip | brain mask | scan | step, s | peak, GB | clips/s | hours an epoch |\n|---|---|---|---|---|---|---|")
    for name, (size, _) in CASES.items():
        for masked in ("all", "masked"):
            for backend in ("auto", "torch") if args.peers else ("auto",):
                repeats = args.repeats if backend == "auto" else 1
                command = [sys.executable, "-m", "benchmarks.pretrain", "--case", name, masked, backend]
                command += ["--threads", str(args.threads), "--repeats", str(repeats)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                share = f"{brain_of(size).float().mean():.0%} of voxels" if masked == "masked" else "none"
                hours = FRAMES / size[3] * found["seconds"] / 3600
                row = (" x ".join(map(str, size)), share, backend, f"{found['seconds']:.2f}")
                rate = f"{1 / found['seconds']:.2f}"
                print("|", " | ".join((*row, f"{found['peak'] / 1e9:.2f}", rate, f"{hours:,.0f}")), "|", flush=True)

    shape = (8, 16, 16, 16, 20)
    labels = torch.arange(16**3).reshape(16, 16, 16) // 40 + 1
    masks = (RandomMask(0.5), WindowMask(0.5), TubeMask(0.5), FrameMask(0.5), BlockMask(0.5), AtlasMask(0.5, labels))
    calls: dict[str, Callable[[], object]] = {type(mask).__name__: partial(mask, shape) for mask in masks}
    numpy_windows = "published windows, in numpy, still to be spread to tokens"
    calls[numpy_windows] = partial(published_window_mask, shape[0], 16**3 * 20 // 4**4, 0.5)
    print("\nMasks of 8 clips on 16 x 16 x 16 x 20 tokens:\n\n| mask | ms |\n|---|---|")
    for name, times in seconds_in_turns(calls).items():
        print(f"| {name} | {statistics.median(times) * 1e3:.2f} |")


if __name__ == "__main__":
    main()
