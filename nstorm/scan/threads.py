"""A thread pool for the CPU kernels: as many threads as torch uses, denormals flushed to zero.

Kernels release the GIL and are called from plain Python threads rather than through numba's own parallel runtime:
any number of caller threads may enter at once, forked data-loader workers start a pool of their own, and the flag
that keeps decayed states from becoming denormal (many times slower) can be set in the threads that do the work.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Any

import torch

# Pieces a thread gets on average: enough to even out threads of unequal speed.
_PIECES_PER_THREAD = 4

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = Lock()


def _pool(num_threads: int) -> ThreadPoolExecutor:
    with _lock:
        if num_threads not in _pools:
            _pools[num_threads] = ThreadPoolExecutor(
                num_threads, "nstorm-scan", initializer=torch.set_flush_denormal, initargs=(True,)
            )
        return _pools[num_threads]


def _forget_pools() -> None:
    global _lock
    _lock = Lock()
    _pools.clear()


# A child process inherits the pools but not their threads.
os.register_at_fork(after_in_child=_forget_pools)


def num_pieces(num_units: int) -> int:
    """In how many pieces `run_pieces` cuts so many units of work."""
    num_threads = torch.get_num_threads()
    return min(num_units, _PIECES_PER_THREAD * num_threads if num_threads > 1 else 1)


def run_pieces(kernel: Callable[..., None], pieces: int, num_units: int, *args: Any) -> None:
    """Call `kernel(piece, first_unit, last_unit, *args)` for all pieces on `torch.get_num_threads()` threads."""
    pool = _pool(torch.get_num_threads())
    futures: list[Future[None]] = []
    try:
        for i in range(pieces):
            first, last = num_units * i // pieces, num_units * (i + 1) // pieces
            futures.append(pool.submit(kernel, i, first, last, *args))
        for future in futures:
            future.result()
    finally:
        # The kernels write to memory that the caller frees when this returns, after an interrupt too.
        for future in futures:
            future.cancel()
        wait(futures)
