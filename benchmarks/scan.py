"""The selective scan beside mambapy's parallel scan: `python -m benchmarks.scan`.

Both compute the whole of what a Mamba block asks for: softplus of the step, the exponential, the recurrence, the
product with C, the skip weight and the gate. Extra memory is the rise of the resident memory beyond outputs and
gradients (the inputs are there before). mambapy is pure PyTorch and runs wherever PyTorch does.
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mambapy.pscan import pscan
from torch import Tensor

from benchmarks.measure import machine, median_seconds, peak_bytes
from nstorm.scan import selective_scan

# windows, channels, length, states
SHAPES = [(80, 72, 256, 16), (1, 256, 4096, 16)]


def inputs(n: int, d: int, length: int, s: int) -> dict[str, Tensor]:
    """Inputs in the memory layout of a mixer, (n, l, channels), as transposed views."""
    torch.manual_seed(0)
    made = {
        "u": torch.randn(n, length, d).transpose(1, 2),
        "delta": (0.5 * torch.randn(n, length, d) - 2).transpose(1, 2),
        "A": -torch.arange(1, s + 1).float().repeat(d, 1),
        "B": torch.randn(n, length, s).transpose(1, 2),
        "C": torch.randn(n, length, s).transpose(1, 2),
        "D": torch.randn(d),
        "z": torch.randn(n, length, d).transpose(1, 2),
        "delta_bias": 0.1 * torch.randn(d),
    }
    return {name: x.requires_grad_() for name, x in made.items()}


def mambapy_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """The composition around `mambapy.pscan` that its MambaBlock uses."""
    u, delta, B, C, z = (x.transpose(1, 2) for x in (u, delta, B, C, z))  # (n, l, channels)
    step = F.softplus(delta + delta_bias)
    decay = torch.exp(step.unsqueeze(-1) * A)
    drive = step.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1)
    states = pscan(decay, drive)
    y = (states @ C.unsqueeze(-1)).squeeze(3) + D * u
    return (y * F.silu(z)).transpose(1, 2)


def nstorm_scan(**kwargs: Any) -> Tensor:
    """The backend that `auto` takes."""
    return selective_scan(**kwargs, delta_softplus=True)


def forward_backward(scan: Callable[..., Tensor], x: dict[str, Tensor], dy: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """A call that returns the output and all gradients."""

    def call() -> tuple[Tensor, ...]:
        y = scan(**x)
        return y, *torch.autograd.grad(y, list(x.values()), dy)

    return call


def forward(scan: Callable[..., Tensor], x: dict[str, Tensor]) -> Callable[[], object]:
    """A call that returns the output alone."""

    def call() -> object:
        with torch.no_grad():
            return scan(**x)

    return call


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    print(
        "| (windows, channels, length, states) | scan | forward ms | forward + backward ms | ns a state update "
        "| extra MB | largest error | times faster |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        x = inputs(*shape)
        dy = torch.randn(shape[0], shape[2], shape[1]).transpose(1, 2)
        results: dict[str, tuple[Tensor, ...]] = {}
        owned = 4 * (sum(t.numel() for t in x.values()) + dy.numel())
        times = {}
        for name, scan in (("mambapy pscan", mambapy_scan), ("nstorm", nstorm_scan)):
            results[name] = forward_backward(scan, x, dy)()
            times[name] = (
                median_seconds(forward(scan, x), args.repeats),
                median_seconds(forward_backward(scan, x, dy), args.repeats),
                (peak_bytes(forward_backward(scan, x, dy)) - owned) / 1e6,
            )
        error = max(
            ((a - b).abs().max() / b.abs().max()).item()
            for a, b in zip(results["nstorm"], results["mambapy pscan"], strict=True)
        )
        for name, (once, both, extra) in times.items():
            print(
                f"| {shape} | {name} | {once * 1e3:.1f} | {both * 1e3:.1f} | {both * 1e9 / math.prod(shape):.2f} | "
                f"{extra:.0f} | {'' if name != 'nstorm' else f'{error:.1e} (from mambapy)'} | "
                f"{times['mambapy pscan'][1] / both:.1f} |"
            )


if __name__ == "__main__":
    main()
