"""The selective scan beside its peers, in one table: `python -m benchmarks.scan`.

All compute the whole of what a Mamba block asks for: softplus of the step, the exponential, the recurrence, the
product with C, the skip weight and the gate; in float32. The peers are mambapy's parallel scan and a loop over tokens
as in transformers, see `benchmarks/peers.py`.

- Times are medians of calls made in turns: each contestant for a fifth of a second, then the next, and so on.
- Extra MB is the rise of the resident memory in forward + backward beyond outputs and gradients.
- The error is that of the output and all gradients, relative to the largest element of each, against `reference` in
  float64; on as few sequences and channels as the table says, because autograd through that loop takes time quadratic
  in length. For the same reason `reference` itself is called only once, without warm-up, and not at all with `--quick`
  or where sequences are long.
- The share of the roofline is its time over the measured one, see `benchmarks/roofline.py`: of forward, and of forward
  + backward. It counts what the numba kernels compute, whatever a contestant does. The machine is measured before and
  after the timings, and the higher value counts, since other work on the machine lowers both.
- ns a state update and times faster than mambapy are of forward + backward.

`--sweep` doubles batch, channels, length and states instead and prints ns a state update, of the fastest call: cost is
linear where they stay. They fall first, while a call's fixed cost, or what concerns a whole token, is shared by more.
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor

from benchmarks import scan_sweep
from benchmarks.first_call import first_call_seconds
from benchmarks.measure import machine, peak_bytes, seconds_in_turns
from benchmarks.peers import mambapy_scan, scan_inputs, sequential_scan
from benchmarks.roofline import Roofline
from nstorm.scan import selective_scan

# sequences, channels, length, states
SHAPES = [(80, 72, 256, 16), (1, 256, 4096, 16)]
_CHECKED_SEQUENCES, _CHECKED_CHANNELS = 2, 16
_LONGEST_FOR_REFERENCE = 1024

Scan = Callable[..., Tensor]

SCANS: dict[str, Scan] = {
    "nstorm numba": partial(selective_scan, delta_softplus=True, backend="numba"),
    "nstorm torch": partial(selective_scan, delta_softplus=True, backend="torch"),
    "nstorm reference": partial(selective_scan, delta_softplus=True, backend="reference"),
    "mambapy pscan": mambapy_scan,
    "loop as in transformers": sequential_scan,
}


def forward(scan: Scan, x: dict[str, Tensor]) -> object:
    with torch.no_grad():
        return scan(**x)


def forward_backward(scan: Scan, x: dict[str, Tensor]) -> tuple[Tensor, ...]:
    y = scan(**x)
    return y, *torch.autograd.grad(y, list(x.values()), x["z"].detach())


def largest_errors(scans: dict[str, Scan], shape: tuple[int, ...]) -> dict[str, float]:
    """Against `reference` in float64, on a few sequences and channels of the length and states of a shape."""
    n, d, length, s = shape
    x = scan_inputs(min(n, _CHECKED_SEQUENCES), min(d, _CHECKED_CHANNELS), length, s)
    exact = forward_backward(
        SCANS["nstorm reference"], {name: t.detach().double().requires_grad_() for name, t in x.items()}
    )
    return {
        name: max(
            ((found - true).abs().max() / true.abs().max()).item()
            for found, true in zip(forward_backward(scan, x), exact, strict=True)
        )
        for name, scan in scans.items()
    }


def measure(scans: dict[str, Scan], x: dict[str, Tensor], rounds: int) -> dict[str, tuple[float, float, int | None]]:
    """Seconds of forward and of forward + backward, and bytes of memory, of each."""
    fast = {name: scan for name, scan in scans.items() if name != "nstorm reference"}
    once, both = (
        seconds_in_turns({name: partial(call, scan, x) for name, scan in fast.items()}, rounds)
        for call in (forward, forward_backward)
    )
    owned = 4 * sum(t.numel() for t in (x["u"], *x.values()))
    found: dict[str, tuple[float, float, int | None]] = {
        name: (median(once[name]), median(both[name]), peak_bytes(partial(forward_backward, scan, x)) - owned)
        for name, scan in fast.items()
    }
    for name in scans.keys() - fast:
        times = []
        for call in (forward, forward_backward):
            start = time.perf_counter()
            call(scans[name], x)
            times.append(time.perf_counter() - start)
        found[name] = times[0], times[1], None
    return found


def print_table(shape: tuple[int, int, int, int], scans: dict[str, Scan], rounds: int) -> None:
    n, d, length, s = shape
    before = Roofline.measure()
    found = measure(scans, scan_inputs(*shape), rounds)
    roofline = before.or_higher(Roofline.measure())
    errors = largest_errors(scans, shape)
    mambapy = found["mambapy pscan"][1]
    print(
        f"\n{shape} = (sequences, channels, length, states); "
        f"errors on {(min(n, _CHECKED_SEQUENCES), min(d, _CHECKED_CHANNELS), length, s)}\n"
        f"roofline: {roofline}\n\n"
        "| scan | forward ms | forward + backward ms | extra MB | largest error | ns a state update "
        "| share of the roofline | times faster than mambapy |\n|---|---|---|---|---|---|---|---|"
    )
    for name in scans:
        once, both, extra = found[name]
        shares = (
            roofline.seconds(*shape, backward=backward) / seconds for backward, seconds in ((False, once), (True, both))
        )
        print(
            f"| {name} | {once * 1e3:.1f} | {both * 1e3:.1f} | {'' if extra is None else f'{extra / 1e6:.0f}'} "
            f"| {errors[name]:.0e} | {both * 1e9 / math.prod(shape):.2f} | {', '.join(f'{x:.2%}' for x in shares)} "
            f"| {mambapy / both:.3g} |"
        )


def main() -> None:
    """Print the table, or the sweeps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks.scan"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of all contestants (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a fast look: fewer rounds, no `reference`")
    parser.add_argument("--sweep", action="store_true", help="double each size in turn, and draw the figure")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    rounds = 2 if args.quick else 5
    if args.sweep:
        nstorm = {name: SCANS[name] for name in ("nstorm numba", "nstorm torch")}
        scan_sweep.run({name: partial(forward_backward, scan) for name, scan in nstorm.items()}, rounds)
        return
    compiled, loaded = first_call_seconds()
    print(f"first call of numba in a process: {compiled:.1f} s to compile, {loaded:.2f} s to load from the cache")
    for shape in SHAPES:
        left_out = {"nstorm reference"} if args.quick or shape[2] > _LONGEST_FOR_REFERENCE else set()
        print_table(shape, {name: scan for name, scan in SCANS.items() if name not in left_out}, rounds)


if __name__ == "__main__":
    main()
