"""Signals that wait for what is begun."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is done; a second one does not wait.

    For work that goes on in other threads when the one that waits for it is interrupted, such as zarr's: what is
    removed on the way out could be written again. A SIGTERM that nobody handles ends the process at once, as ever.
    """
    # Python handles signals in its main thread only
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    came: list[tuple[int, FrameType | None]] = []

    def hear(number: int, frame: FrameType | None) -> None:
        if came:
            before[number](number, frame)
        came.append((number, frame))

    try:
        for number in _SIGNALS:
            if callable(before[number]):
                signal.signal(number, hear)
        yield
    finally:
        for number in _SIGNALS:
            if callable(before[number]):
                signal.signal(number, before[number])
        for first, frame in came[:1]:
            before[first](first, frame)
