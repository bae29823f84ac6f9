"""Real jobs that meet real faults; run by test_faults.py, each as a module with its NAME.

A job that is forked has imported everything, so that a fault meets its work and not its start.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from nstorm.data.preparation.failures import PrepareError
from nstorm.data.preparation.run_all import prepare
from nstorm.data.store.verify import verify
from tests.data.preparation.stores import content_of, copied_study


def forked_job(items, path) -> int:
    """Start a job in a process group of its own."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        try:
            prepare(items, path, progress=False)
        finally:
            os._exit(int(sys.exc_info()[0] is not None))
    return pid


def undisturbed(folder):
    """Prepare runs twice, and measure the second time."""
    study = copied_study(folder / "runs", 6)
    prepare(study, folder / "first", progress=False)
    began = time.monotonic()
    prepare(study, folder / "whole", progress=False)
    seconds = time.monotonic() - began
    return list(study), content_of(folder / "whole"), seconds


def in_forks(folder):
    """Do all that needs nothing but forks."""
    items, whole, seconds = undisturbed(folder)
    return {
        "killed": killed(folder, items, whole, seconds),
        "read meanwhile": two_jobs_and_a_reader(folder, items, whole),
        "parts": many_parts_at_once(folder, items, whole),
    }


def killed(folder, items, whole, seconds):
    moments = random.Random(0)
    num_kills, stores = 0, map("{}/store-{}".format, itertools.repeat(folder), itertools.count())
    path, left = next(stores), []
    while num_kills < 20:
        pid = forked_job(items, path)
        time.sleep(moments.uniform(0, seconds))
        os.killpg(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        found = content_of(path) if Path(path, "nstorm-store.json").exists() else {}
        assert found.items() <= whole.items(), "a run is in the store that is not whole"
        left.append(len(found))
        if os.WIFSIGNALED(status):
            num_kills += 1
        else:
            assert status == 0
            assert found == whole
            path = next(stores)
    assert os.waitpid(forked_job(items, path), 0)[1] == 0
    assert content_of(path) == whole
    assert not verify(path, progress=False)
    return {"kills": num_kills, "runs after each": left}


def two_jobs_and_a_reader(folder, items, whole):
    path = folder / "shared"
    pids = [forked_job(items, path), forked_job(items[::-1], path)]
    num_read, statuses = 0, []
    while len(statuses) < 2:
        if (path / "nstorm-store.json").exists():
            found = content_of(path)
            num_read += len(found)
            assert found.items() <= whole.items()
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in pids:
            statuses.append(status)
    assert statuses == [0, 0]
    assert content_of(path) == whole
    return num_read


def many_parts_at_once(folder, items, whole):
    pids = []
    for index in range(4):
        pids.append(pid := os.fork())
        if pid == 0:
            try:
                prepare(items, folder / "parts", part=(index + 1, 4), progress=False)
            finally:
                os._exit(int(sys.exc_info()[0] is not None))
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    assert content_of(folder / "parts") == whole
    return len(pids)


def full_disk(folder):
    """Fill a small disk; runs where mounting is allowed."""
    items, whole, _ = undisturbed(folder)
    needed = sum(path.stat().st_blocks * 512 for path in (folder / "whole").rglob("*"))
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={needed * 4 // 10}", "none", small], check=True)
    try:
        prepare(items, small / "store", progress=False)
        raise AssertionError("the disk is large enough")
    except PrepareError as error:
        message, failures = str(error), [failure.key for failure in error.failures]
        num_left = error.num_left
    found = content_of(small / "store")
    assert found.items() < whole.items()
    num_records = len(os.listdir(small / "store" / "commits"))
    attempts = len(list((small / "store" / "runs").glob("*/*")))
    subprocess.run(["mount", "-o", "remount,size=50m", small], check=True)
    prepare(items, small / "store", progress=False)
    assert content_of(small / "store") == whole
    assert not verify(small / "store", progress=False)
    return {
        "message": message,
        "failures": failures,
        "left": num_left,
        "there": len(found),
        "records": num_records,
        "attempts": attempts,
        "table": sorted(map(str, (small / "store" / "failures").iterdir())),
    }


def two_workers(folder):
    """Be the job that others kill."""
    prepare(json.loads((folder / "items.json").read_text()), folder / "store", workers=2)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](Path(sys.argv[2]))))
