"""What `nstorm info` prints: versions, devices, and which backend runs the scan here.

Example:
    >>> from nstorm import info
    >>> info.describe().splitlines()[0]
    'Versions'
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from nstorm.scan import selective_scan
from nstorm.scan.backends import BACKENDS, VARIABLE, ScanCall, choose_backend

_PACKAGES = ("nstorm", "torch", "numba", "triton", "monai", "mamba-ssm")
_CALLS = (
    ("windows", (80, 72, 256, 16), torch.float32),
    ("one long sequence", (1, 256, 4096, 16), torch.float32),
    ("one long sequence", (1, 256, 4096, 16), torch.float64),
)


def describe() -> str:
    """Describe this installation in plain text.

    What cannot be found out is said so in its place and raises nothing. The first call of the CPU kernels is timed,
    which needs a process that has not called them yet.
    """
    sections: dict[str, Callable[[], Iterator[str]]] = {
        "Versions": _versions,
        "Devices": _devices,
        "First call of the numba backend": _first_call,
        "Backend of the scan": _choices,
    }
    return "\n\n".join("\n  ".join([title, *_lines(section)]) for title, section in sections.items())


def _lines(section: Callable[[], Iterator[str]]) -> list[str]:
    try:
        return list(section())
    except Exception as error:  # a report on a broken installation must not break on it
        return [f"cannot be found out: {type(error).__name__}: {error}"]


def _versions() -> Iterator[str]:
    yield f"{'python':10}{platform.python_version()}, {platform.system()} {platform.machine()}"
    for package in _PACKAGES:
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "not installed"
        yield f"{package:10}{found}"


def _devices() -> Iterator[str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield f"{'cpu':10}{cores} cores, PyTorch's threads: {torch.get_num_threads()}"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield f"{f'cuda:{index}':10}{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    else:
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        yield f"{'cuda':10}not available (this PyTorch is built {built})"
    if torch.backends.mps.is_available():
        yield f"{'mps':10}available"


def _first_call() -> Iterator[str]:
    def call(backend: str) -> float:
        x, A = torch.zeros(1, 1, 1, requires_grad=True), torch.zeros(1, 1)
        start = time.perf_counter()
        selective_scan(x, x, A, x, x, backend=backend).sum().backward()
        return time.perf_counter() - start

    call("torch")  # what PyTorch itself does once is not numba's cost
    loaded, compiled = _numba_counts()
    seconds = call("numba")
    now_loaded, now_compiled = _numba_counts()
    if now_compiled > compiled:
        yield f"{seconds:.2f} s: compiled, and cached for the next process"
    elif now_loaded > loaded:
        yield f"{seconds:.2f} s: loaded from the cache"
    else:
        yield f"made before in this process; a call takes {1e3 * seconds:.1f} ms"
    for folder in sorted({str(kernel.stats.cache_path) for kernel in _kernels()}):
        yield f"cache in {folder}"


def _kernels() -> list[Any]:
    """The compiled functions that numba keeps on disk; none before numba is loaded."""
    if "numba" not in sys.modules:
        return []
    from numba.core.dispatcher import Dispatcher

    modules = [module for name, module in sys.modules.items() if name.startswith("nstorm.scan.")]
    members = {x for module in modules for x in vars(module).values() if isinstance(x, Dispatcher)}
    return [x for x in members if x.stats.cache_path is not None]


def _numba_counts() -> tuple[int, int]:
    """How many kernels were loaded from the cache, and how many compiled."""
    stats = [kernel.stats for kernel in _kernels()]
    return sum(sum(s.cache_hits.values()) for s in stats), sum(sum(s.cache_misses.values()) for s in stats)


def _choices() -> Iterator[str]:
    wanted = os.environ.get(VARIABLE)
    yield f"{VARIABLE} is {f'set to {wanted!r}' if wanted else 'not set'}"
    yield f"{'call':20}{'(n, d, l, s)':22}{'type':10}{'device':8}backend"
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        for name, shape, dtype in _CALLS:
            yield from _choice(name, ScanCall(device, dtype, shape))


def _choice(name: str, call: ScanCall) -> Iterator[str]:
    try:
        chosen = choose_backend("auto", call)
    except ValueError as error:
        chosen = f"none: {error}"
    yield f"{name:20}{call.shape!s:22}{str(call.dtype).removeprefix('torch.'):10}{call.device:8}{chosen}"
    for other, backend in BACKENDS.items():
        reason = backend.refuse(call)
        if reason is None:
            break
        yield f"  not {other}: {reason}"
