"""One thread for a run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock

import torch

_lock = Lock()
_inside = 0
_undo: list[Callable[[], None]] = []


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread, so that the last digits do not depend on how many there are; runs are done in parallel.

    The number is one of the process, whose threads may prepare a run each, as those of a Dask worker: the first of them
    sets it, and the last one puts it back.
    """
    global _inside
    from threadpoolctl import threadpool_limits

    with _lock:
        if not _inside:
            _undo[:] = (
                partial(torch.set_num_threads, torch.get_num_threads()),
                threadpool_limits(1).restore_original_limits,
            )
        _inside += 1
        # OpenMP has it for each thread
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for undo in _undo:
                    undo()
