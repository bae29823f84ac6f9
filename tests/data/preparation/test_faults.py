"""Faults that a night on a cluster brings; :mod:`tests.data.preparation.fault_jobs` has those that need whole jobs."""

import json
import os
import shutil
import signal
import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path

import pytest

from nstorm.data import Study, haxby_runs
from nstorm.data.preparation import job as module
from nstorm.data.preparation.failures import Failure, PrepareError
from nstorm.data.preparation.job import Job, Work
from nstorm.data.preparation.plan import named
from nstorm.data.preparation.pool import in_processes
from nstorm.data.preparation.presets import PRESETS
from nstorm.data.preparation.run_all import prepare
from nstorm.data.store.store import Store
from tests.data.preparation.stores import copied_study, flip_bit, keys_of, truncate

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """What became of jobs that met faults, in one process, in which a small disk may be mounted if that is allowed."""
    folder = tmp_path_factory.mktemp("jobs")
    namespace = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        namespace = []
    done = subprocess.run(
        [*namespace, sys.executable, "-m", "tests.data.preparation.fault_jobs", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_jobs_killed_at_random_moments_lose_nothing(jobs):
    assert jobs["killed"]["kills"] == 20
    # they met the work
    assert len(set(jobs["killed"]["runs after each"])) > 3


def test_two_jobs_and_a_reader_share_a_store(jobs):
    assert jobs["read meanwhile"] > 0


def test_parts_may_begin_a_store_at_once(jobs):
    assert jobs["parts"] == 4


def test_a_full_disk_ends_the_job_and_loses_nothing(jobs):
    result = jobs["full disk"]
    if result is None:
        pytest.skip("needs Linux, and the right to mount a tmpfs in a namespace of one's own")
    assert result["there"] == result["records"] == result["attempts"] == 2
    assert len(result["failures"]) == 1
    assert result["left"] == 2
    assert "small/store/runs" in result["message"]
    assert "No space left on device" in result["message"]
    assert len(result["table"]) == 1


def test_workers_end_with_the_process_that_started_them(jobs):
    assert 0 < jobs["killed with workers"]["there"] < 10
    assert "Traceback" not in jobs["killed with workers"]["said"]


def test_ctrl_c_ends_all_and_leaves_nothing_half_written(jobs):
    result = jobs["interrupted"]
    assert 0 < result["there"] < 10
    assert result["half-written"] == 0
    assert "interrupted: what is done is in the store, and the same command goes on" in result["said"]
    # of the process itself; workers say nothing, unless they had only begun
    assert "KeyboardInterrupt" in result["said"]


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
    items = [dict(item) for item in copied_study(tmp_path / "runs", 4)]
    for item in items[:2]:
        item["events"] = f"{item['image']}.tsv"
        # reading it takes for ever
        os.mkfifo(item["events"])
    jobs = named(Study(items))
    keys = [job.key for job in jobs]

    def mend():
        os.unlink(items[0]["events"])
        shutil.copy(haxby_runs()[0].events, items[0]["events"])

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
    assert failure.file == items[1]["image"]
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
