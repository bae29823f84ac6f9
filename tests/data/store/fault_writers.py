"""Processes that write into a store and are killed; run by test_write.py with ``python -m``.

A writer that is forked has imported everything, so that what happens to it meets its work and not its start.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from nstorm.data.store.store import Store
from nstorm.data.store.verify import verify
from tests.data.store.runs import put

NUM_FRAMES = 90


def forked_writer(store: Store, key: str) -> int:
    pid = os.fork()
    if pid == 0:
        seed = 0
        try:
            while True:
                put(store, key, seed=seed % 2, num_frames=NUM_FRAMES)
                seed += 1
        finally:
            os._exit(1)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    # it was at work until then
    assert os.WIFSIGNALED(status)


def contents(folder: Path) -> list[np.ndarray]:
    store = Store(folder, create=True)
    found = []
    for seed in (0, 1):
        put(store, seed=seed, num_frames=NUM_FRAMES)
        store.refresh()
        found.append(store["sub-1"].read_brain())
    return found


def killed(folder: Path) -> dict[str, int]:
    """Kill a writer 20 times; what counts is whole each time."""
    expected = contents(folder / "expected")
    store = Store(folder / "store", create=True)
    moments = random.Random(0)
    half = 0
    for _ in range(20):
        pid = forked_writer(store, "sub-1")
        time.sleep(moments.uniform(0.01, 0.15))
        kill(pid)
        store.refresh()
        found = verify(store, progress=False)
        assert not found, found
        for run in store.values():
            assert any(np.array_equal(run.read_brain(), each) for each in expected)
        half = len([name for name in found.leftovers if name.startswith("runs")])
    return {"runs": len(store), "records": len(store.place.names("commits")), "attempts left": half}


def read_meanwhile(folder: Path) -> dict[str, int]:
    """Read while two write one run and a third another."""
    expected = contents(folder / "store")
    store = Store(folder / "store")
    pids = [forked_writer(store, key) for key in ("sub-1", "sub-1", "sub-2")]
    seen, attempts = set(), set()
    end = time.monotonic() + 60
    while (len(seen) < 4 or len(attempts) < 12) and time.monotonic() < end:
        store.refresh()
        for key, run in store.items():
            (which,) = (number for number, each in enumerate(expected) if np.array_equal(run.read_brain(), each))
            seen.add((key, which))
            attempts.add(run.record.attempt)
    for pid in pids:
        kill(pid)
    assert not verify(store, progress=False)
    return {"seen": len(seen), "attempts": len(attempts)}


if __name__ == "__main__":
    name, folder = sys.argv[1:]
    print(json.dumps({"killed": killed, "read_meanwhile": read_meanwhile}[name](Path(folder))))
