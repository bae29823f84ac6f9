"""Time and memory of a call, measured the same way for every contestant."""

import ctypes
import gc
import platform
import statistics
import time
import timeit
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def median_seconds(call: Callable[[], object], repeats: int = 7, warm_up: int = 2) -> float:
    """Median wall time of a call, after warm-up."""
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def fastest_seconds(call: Callable[[], object], repeats: int = 100) -> float:
    """Shortest wall time of a call: what the machine can do when nothing disturbs it."""
    call()
    return min(timeit.repeat(call, number=1, repeat=repeats))


def seconds_in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int = 5, turn_seconds: float = 0.2
) -> dict[str, list[float]]:
    """Wall times of each call, measured in turns, so that whatever slows the machine slows all of them.

    A turn is one call to warm up, and then as many as fit into `turn_seconds`, at least one.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            end = time.perf_counter() + turn_seconds
            while True:
                times[name] += timeit.repeat(call, number=1, repeat=1)
                if time.perf_counter() > end:
                    break
    return times


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def peak_bytes(call: Callable[[], object]) -> int:
    """How far the process's resident memory rises above its level before the second call (Linux)."""
    call()
    gc.collect()
    # give freed memory back first, or the call would reuse it unseen
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    result = call()
    peak = _status("VmHWM") - before
    del result
    return peak


def peak_resident_bytes() -> int:
    """The largest resident memory of this process so far."""
    return _status("VmHWM")


def machine() -> str:
    """The machine and versions, for the head of a table."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"
