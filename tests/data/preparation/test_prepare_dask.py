import os
import signal

import pytest

from nstorm.data import Study
from nstorm.data.preparation.dask_cluster import on_dask
from nstorm.data.preparation.failures import Failure, PrepareError
from nstorm.data.preparation.job import Work
from nstorm.data.preparation.plan import named
from nstorm.data.preparation.presets import PRESETS
from nstorm.data.preparation.run_all import prepare
from nstorm.data.store.store import Store
from tests.data.preparation.stores import content_of, copied_study, keys_of, truncate

distributed = pytest.importorskip("distributed")

# workers are there sooner as forks of a process that has imported what they need
OF_DASK = {"distributed.scheduler.allowed-failures": 0, "distributed.worker.multiprocessing-method": "forkserver"}


class Watch:
    """Kills the worker that begins a run."""

    def __init__(self, key, client):
        self.key, self.client = key, client
        self.pids = client.run(os.getpid)
        self.outcomes, self.stages = {}, set()

    def moved(self, key, stage, share):
        self.stages.add(stage)
        if key == self.key:
            for worker, tasks in self.client.processing().items():
                if tasks and worker in self.pids:
                    os.kill(self.pids.pop(worker), signal.SIGKILL)

    def ended(self, key, outcome):
        self.outcomes[key] = outcome

    def again(self, key, why):
        raise AssertionError

    def note(self, text):
        raise AssertionError(text)

    def tick(self):
        pass


def test_a_cluster_prepares_what_this_process_does_and_survives_its_workers(tmp_path):
    import dask

    study = copied_study(tmp_path / "runs", 4)
    truncate(study[2]["image"])
    with (
        dask.config.set(OF_DASK),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
    ):
        address = cluster.scheduler_address
        with pytest.raises(PrepareError, match="1 run could not be prepared") as error:
            prepare(study, tmp_path / "store", scheduler=address, progress=False)
        (failure,) = error.value.failures
        assert failure.key == keys_of(study)[2]
        assert study[2]["image"] in failure.reason

        # a run that hangs, until its worker is killed
        fifo = str(tmp_path / "events.tsv")
        os.mkfifo(fifo)
        jobs = named(Study([*study[:2], {**study[2], "events": fifo}]))
        work = Work(Store(tmp_path / "killed", create=True).place, PRESETS["native"], one_file=False)
        with distributed.Client(address) as client:
            watch = Watch(jobs[2].key, client)
            on_dask(jobs[2:3], work, watch, address)
            outcome = watch.outcomes[jobs[2].key]
            assert isinstance(outcome, Failure)
            assert "its Dask workers died (out of memory?)" in outcome.reason
            assert outcome.file == study[2]["image"]
            assert watch.stages
            on_dask(jobs[:1], work, watch, address)
    assert list(Store(tmp_path / "killed")) == keys_of(study)[:1]

    good = [study[index] for index in (0, 1, 3)]
    prepare(good, tmp_path / "here", progress=False)
    assert content_of(tmp_path / "store") == content_of(tmp_path / "here")


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    import dask

    study = copied_study(tmp_path / "runs", 1)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "100ms"}),
        pytest.raises(ConnectionError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:1'"),
    ):
        prepare(study, tmp_path / "store", scheduler="tcp://127.0.0.1:1", progress=False)
