"""Faults that a night on a cluster brings; :mod:`tests.data.preparation.fault_jobs` has those that need whole jobs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from nstorm.data import haxby_runs
from nstorm.data.preparation import job as module
from nstorm.data.preparation.failures import Failure, PrepareError
from nstorm.data.preparation.job import Job, Work
from nstorm.data.preparation.plan import named
from nstorm.data.preparation.pool import in_processes
from nstorm.data.preparation.presets import PRESETS
from nstorm.data.preparation.run_all import prepare
from nstorm.data.store.store import Store
from tests.data.preparation.stores import content_of, copied_study, flip_bit, keys_of, truncate

ROOT = Path(__file__).parents[3]


def job(name, folder, before=()):
    return [*before, sys.executable, "-m", "tests.data.preparation.fault_jobs", name, str(folder)]


def result_of(name, folder, before=()):
    done = subprocess.run(job(name, folder, before), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    return result_of("in_forks", tmp_path_factory.mktemp("forks"))


def test_jobs_killed_at_random_moments_lose_nothing(forks):
    assert forks["killed"]["kills"] == 20
    # they met the work
    assert len(set(forks["killed"]["runs after each"])) > 3


def test_two_jobs_and_a_reader_share_a_store(forks):
    assert forks["read meanwhile"] > 0


def test_parts_may_begin_a_store_at_once(forks):
    assert forks["parts"] == 4


def test_a_full_disk_ends_the_job_and_loses_nothing(tmp_path):
    namespace = ("unshare", "--map-root-user", "--mount")
    if subprocess.run([*namespace, "mount", "-t", "tmpfs", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("needs Linux, and the right to mount a tmpfs in a namespace of one's own")
    result = result_of("full_disk", tmp_path, namespace)
    assert 0 < result["there"] == result["records"] == result["attempts"] < 5
    assert len(result["failures"]) == 1
    assert result["left"] == 5 - result["there"]
    assert str(tmp_path / "small" / "store" / "runs") in result["message"]
    assert "No space left on device" in result["message"]
    assert len(result["table"]) == 1


@pytest.fixture
def two_workers(tmp_path):
    """A job of two workers, in a process group of its own, of whose runs some are in the store."""
    study = [{**item, "subject": name} for name in ("1", "2") for item in copied_study(tmp_path / name, 12)]
    (tmp_path / "items.json").write_text(json.dumps(study))
    process = subprocess.Popen(
        job("two_workers", tmp_path), cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    commits = tmp_path / "store" / "commits"
    while not (commits.is_dir() and any(name.endswith(".json") for name in os.listdir(commits))):
        assert process.poll() is None
        time.sleep(0.005)
    yield study, tmp_path / "store", process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()


def wait_until_gone(group):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError("workers outlive the process that started them")


def goes_on(study, path):
    """Finish a job that ended early; what it left is whole."""
    before = content_of(path)
    assert 0 < len(before) < 24
    prepare(study, path, progress=False)
    whole = path.parent / "whole"
    prepare(study, whole, progress=False)
    expected = content_of(whole)
    assert before.items() <= expected.items()
    assert content_of(path) == expected


def test_workers_end_with_the_process_that_started_them(two_workers):
    study, path, process = two_workers
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until_gone(process.pid)
    goes_on(study, path)


def test_ctrl_c_ends_all_and_leaves_nothing_half_written(two_workers):
    study, path, process = two_workers
    os.killpg(process.pid, signal.SIGINT)
    said = process.stderr.read()
    assert process.wait() != 0
    wait_until_gone(process.pid)
    assert "interrupted: what is done is in the store, and the same command goes on" in said
    # of the process itself; workers say nothing
    assert said.count("Traceback") == 1
    records = Store(path).records.values()
    assert sorted(map(str, (path / "runs").glob("*/*"))) == sorted(str(path / record.folder) for record in records)
    goes_on(study, path)


class Watch:
    """Kills both workers when both hang, mends one of their runs, and kills the worker that hangs again."""

    def __init__(self, hang, mended, mend):
        self.hang, self.mended, self.mend = hang, mended, mend
        self.signals = [signal.SIGKILL, signal.SIGSEGV]
        self.begun, self.outcomes, self.notes = set(), {}, []

    def moved(self, key, stage, share):
        self.begun.add(key)

    def ended(self, key, outcome):
        assert key not in self.outcomes
        self.outcomes[key] = outcome

    def again(self, key, why):
        self.notes.append(f"{key}: {why}")
        if key == self.mended:
            self.mend()
            self.hang = self.hang - {key}

    def note(self, text):
        self.notes.append(text)

    def tick(self):
        # nobody else is at work
        if self.hang <= self.begun and (len(self.hang) == 2 or len(self.outcomes) == 3):
            number = self.signals.pop(0)
            for child in active_children():
                os.kill(child.pid, number)
            self.begun.clear()


def test_a_worker_that_is_killed_costs_no_run_but_one_that_kills_twice(tmp_path):
    study = copied_study(tmp_path / "runs", 4)
    jobs = named(study)
    keys, images = [job.key for job in jobs], [Path(job.item["image"]) for job in jobs]
    # reading them takes for ever
    for image in images[:2]:
        image.unlink()
        os.mkfifo(image)

    def mend():
        images[0].unlink()
        shutil.copy(haxby_runs()[0].bold, images[0])

    work = Work(Store(tmp_path / "store", create=True).place, PRESETS["native"], one_file=False)
    watch = Watch({*keys[:2]}, keys[0], mend)
    in_processes(jobs, work, watch, workers=2)
    assert sorted(watch.outcomes) == keys
    assert sorted(watch.notes) == [
        f"{key}: its worker process was killed by signal 9 (SIGKILL): out of memory? Use fewer workers, or ask for "
        "more memory"
        for key in keys[:2]
    ]
    assert list(Store(tmp_path / "store")) == [keys[0], *keys[2:]]
    failure = watch.outcomes[keys[1]]
    assert isinstance(failure, Failure)
    assert failure.file == str(images[1])
    assert "was killed by signal 11 (SIGSEGV)" in failure.reason
    assert not active_children()


def test_damaged_and_unreadable_files_are_named(tmp_path):
    study = copied_study(tmp_path / "runs", 6)
    items = list(study)
    for item in items[3:]:
        plain = Path(item["image"]).with_suffix("")
        subprocess.run(["gzip", "-d", item["image"]], check=True)
        item["image"] = str(plain)
    truncate(items[0]["image"])
    flip_bit(items[1]["image"])
    truncate(items[3]["image"])
    Path(items[4]["image"]).unlink()
    Path(items[4]["image"]).mkdir()
    # what shows in the header is listed before any work
    with pytest.raises(ValueError, match="before any work") as error:
        prepare(items, tmp_path / "store", progress=False)
    for item in (items[3], items[4]):
        assert item["image"] in str(error.value)
    with pytest.raises(PrepareError, match="4 runs could not be prepared") as error:
        prepare(items, tmp_path / "store", progress=False, ignore=["image"])
    found = {failure.key: failure.reason for failure in error.value.failures}
    keys = keys_of(study)
    assert sorted(found) == [keys[0], keys[1], keys[3], keys[4]]
    for key, item in zip(keys, items, strict=True):
        if key in found:
            assert item["image"] in found[key]
    assert sorted(error.value.store) == [keys[2], keys[5]]


def test_a_file_that_is_gone_when_its_turn_comes_is_named(tmp_path):
    (item,) = copied_study(tmp_path / "runs", 1)
    work = Work(Store(tmp_path / "store", create=True).place, PRESETS["native"], one_file=False)
    Path(item["image"]).unlink()
    failure = work.attempt(Job("sub-1", item), lambda stage, share: None)
    assert isinstance(failure, Failure)
    assert item["image"] in failure.reason


def test_a_machine_that_sees_no_store_writes_none(tmp_path):
    (item,) = copied_study(tmp_path / "runs", 1)
    store = Store(tmp_path / "store", create=True)
    work = Work(store.place, PRESETS["native"], one_file=False)
    shutil.rmtree(tmp_path / "store")
    failure = work.attempt(Job("sub-1", item), lambda stage, share: None)
    assert isinstance(failure, Failure)
    assert "is no store on the machine that prepares the run" in failure.reason
    assert not (tmp_path / "store").exists()


def test_an_error_that_nobody_expected_says_where_it_is_from(tmp_path, monkeypatch):
    (item,) = copied_study(tmp_path / "runs", 1)
    work = Work(Store(tmp_path / "store", create=True).place, PRESETS["native"], one_file=False)
    monkeypatch.setattr(module, "prepare_run", lambda *args, **options: 1 / 0)
    failure = work.attempt(Job("sub-1", item), lambda stage, share: None)
    assert str(failure).startswith("sub-1: ZeroDivisionError: division by zero (in ")
    assert "test_faults.py" in failure.reason
    assert item["image"] in str(failure)
