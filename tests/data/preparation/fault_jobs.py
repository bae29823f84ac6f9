"""Real jobs that meet real faults; run by test_faults.py as a module.

Jobs are forks of one process that has imported everything, so that a fault meets their work and not their start.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from nstorm.data.preparation.failures import PrepareError
from nstorm.data.preparation.run_all import prepare
from nstorm.data.store.store import Store
from nstorm.data.store.verify import verify
from tests.data.preparation.stores import content_of, copied_study

PAGE = 4096


def main(folder):
    items = list(copied_study(folder / "runs", 10))
    # the first time, imports take time too
    prepare(items[:1], folder / "first", progress=False)
    began = time.monotonic()
    prepare(items, folder / "whole", progress=False)
    seconds = time.monotonic() - began
    whole = content_of(folder / "whole")
    some = items[:5]
    some_whole = dict(itertools.islice(whole.items(), 5))
    return {
        **of_two_workers(folder, items, whole),
        "killed": killed(folder, some, some_whole, seconds * 0.4),
        "read meanwhile": two_jobs_and_a_reader(folder, some, some_whole),
        "parts": many_parts_at_once(folder, some, some_whole),
        "full disk": full_disk(folder, some, some_whole),
    }


def forked_job(items, path, says=None, **options) -> int:
    """Start a job in a process group of its own."""
    pid = os.fork()
    # by both, so that it is there for both
    with suppress(OSError):
        os.setpgid(pid, pid)
    if pid == 0:
        # a shell has what it starts in the background ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if says is not None:
            os.dup2(os.open(says, os.O_WRONLY | os.O_CREAT), 2)
        try:
            prepare(items, path, progress=says is not None, **options)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return pid


def of_two_workers(folder, items, whole):
    """End two jobs of two workers each when some runs are in the store: by SIGKILL, and by Ctrl-C."""
    result = {}
    for name, number in {"killed with workers": signal.SIGKILL, "interrupted": signal.SIGINT}.items():
        # a job may be done before the signal reaches it, where the machine is quick
        for attempt in range(10):
            path, said = folder / f"{name} {attempt}", folder / f"{name} {attempt}.txt"
            if ended_by(number, items, path, said) and len(content_of(path)) < len(items):
                break
            assert content_of(path) == whole
        else:
            raise AssertionError(f"no job of ten could be {name}")
        before = content_of(path)
        assert before.items() <= whole.items()
        records = Store(path).records.values()
        arrays = sorted(map(str, (path / "runs").glob("*/*")))
        result[name] = {
            "there": len(before),
            "said": said.read_text(),
            "half-written": len(arrays) - len({str(path / record.folder) for record in records} & {*arrays}),
        }
        prepare(items, path, progress=False)
        assert content_of(path) == whole
    return result


def ended_by(number, items, path, said):
    """Start a job of two workers and send it a signal when a run is in the store; say whether that ended it."""
    pid = forked_job(items, path, said, workers=2)
    commits = path / "commits"
    while not (commits.is_dir() and any(entry.endswith(".json") for entry in os.listdir(commits))):
        time.sleep(0.005)
    # Ctrl-C reaches the workers too; a job that is done is waited for below, so that it is still there
    (os.killpg if number == signal.SIGINT else os.kill)(pid, number)
    status = os.waitpid(pid, 0)[1]
    wait_until_gone(pid)
    return status != 0


def wait_until_gone(group):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError("workers outlive the process that started them")


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
    pids = [forked_job(items, folder / "parts", part=(index + 1, 4)) for index in range(4)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    assert content_of(folder / "parts") == whole
    return len(pids)


def pages(folder):
    return sum(-(-path.stat().st_size // PAGE) for path in folder.rglob("*") if path.is_file())


def full_disk(folder, items, whole):
    """Fill a small disk; None where mounting is not allowed."""
    first, second, third, *_ = (pages(folder / "whole" / "runs" / key) for key in whole)
    small = folder / "small"
    small.mkdir()
    # with a page for each record and what begins the store
    mount = ["mount", "-t", "tmpfs", "-o", f"size={(first + second + third // 2 + 3) * PAGE}", "none", small]
    if subprocess.run(mount, capture_output=True).returncode:
        return None
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


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
