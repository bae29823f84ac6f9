"""Runs prepared by the workers of a Dask cluster."""

import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from nstorm.data.preparation.failures import Failure
from nstorm.data.preparation.job import Job, Outcome, Watch, Work
from nstorm.data.preparation.progress import seldom

if TYPE_CHECKING:
    import distributed

_TOLD = 1.0
_TICK = 1.0


def on_dask(jobs: Sequence[Job], work: Work, watch: Watch, address: str) -> None:
    """Prepare runs on a Dask cluster, one task a run.

    A run whose worker dies is tried again by Dask, as often as its ``distributed.scheduler.allowed-failures`` says.
    Runs that are in work when all is ended are finished by their workers.

    Raises:
        ImportError: Dask is not installed.
        ConnectionError: No scheduler answers, or it is gone before all is done.
    """
    try:
        import distributed
    except ImportError as error:
        raise ImportError("scheduler needs Dask: install it with pip install 'nstorm[cluster]'") from error
    try:
        client = distributed.Client(address)
    except OSError as error:
        raise ConnectionError(
            f"no Dask scheduler answers at {address!r} ({error}): start one, or correct it"
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            watch.note(f"{address} has no workers yet: the runs begin when the first one comes")
        topic = f"nstorm-{uuid.uuid4().hex}"
        # the client calls back from a thread of its own
        events: SimpleQueue[Any] = SimpleQueue()
        client.subscribe_topic(topic, lambda event: events.put(tuple(event[1])))
        futures = client.map(partial(_attempt, work, topic), jobs, pure=False)
        try:
            for future in futures:
                future.add_done_callback(events.put)
            _follow(events, dict(zip((future.key for future in futures), jobs, strict=True)), watch)
        finally:
            client.cancel(futures)


def _follow(events: "SimpleQueue[Any]", of_future: Mapping[Any, Job], watch: Watch) -> None:
    left = {job.key for job in of_future.values()}
    while left:
        try:
            event = events.get(timeout=_TICK)
        except Empty:
            watch.tick()
            continue
        if not isinstance(event, tuple):
            job = of_future[event.key]
            left.remove(job.key)
            watch.ended(job.key, _outcome(event, job))
        # what a worker says may come after the outcome
        elif event[0] in left:
            watch.moved(*event)


def _outcome(future: "distributed.Future[Any]", job: Job) -> Outcome:
    from distributed import KilledWorker

    if future.status not in ("finished", "error"):
        raise ConnectionError(
            f"the Dask scheduler at {future.client.scheduler.address} is gone, or has given up all runs: what is done "
            "is in the store, and the same command goes on from there"
        )
    error = future.exception()
    if error is None:
        return future.result()
    killed = "its Dask workers died (out of memory?): " if isinstance(error, KilledWorker) else "Dask: "
    return Failure(job.key, job.item["image"], f"{killed}{error}")


def _attempt(work: Work, topic: str, job: Job) -> Outcome:
    from distributed import get_worker

    worker = get_worker()
    tell = seldom(lambda stage, share: worker.log_event(topic, (job.key, stage, share)), _TOLD)
    return work.attempt(job, tell)
