"""Many small waits for a file system at once."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

# Folders of a cluster answer after milliseconds each, but many at a time.
NUM_THREADS = 16

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def in_threads(function: Callable[[Argument], Result], arguments: Iterable[Argument]) -> Iterator[Result]:
    """Call a function for each argument, many at a time; the results come in the order of the arguments."""
    pool = ThreadPoolExecutor(NUM_THREADS)
    try:
        yield from pool.map(function, arguments)
    finally:
        # whoever interrupts does not wait for what has not begun
        pool.shutdown(cancel_futures=True)
