"""A plan carried out: by this process, by several, or by a Dask cluster."""

from collections.abc import Mapping
from contextlib import suppress

from nstorm.data.preparation.dask_cluster import on_dask
from nstorm.data.preparation.failures import PrepareError
from nstorm.data.preparation.job import Work, in_this_process
from nstorm.data.preparation.plan import Plan
from nstorm.data.preparation.pool import in_processes
from nstorm.data.preparation.progress import Progress
from nstorm.data.preparation.watch import JobEndsError, JobWatch
from nstorm.data.store.store import Store


def check_workers(workers: int, scheduler: str | None) -> None:
    """Refuse a number of processes that has no meaning.

    Raises:
        ValueError: It has none.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}, but it has to be 1 or more")
    if scheduler is not None and workers != 1:
        raise ValueError(f"workers is {workers}, but {scheduler} has workers of its own: give one of the two")


def slice_of(part: tuple[int, int] | None) -> slice:
    """Give the runs of a part, such as ``(3, 16)``, the third of sixteen; all without one.

    Raises:
        ValueError: There is no such part.
    """
    index, number = part or (1, 1)
    if not 1 <= index <= number:
        raise ValueError(
            f"part is {part}, but the parts of {number} are numbered from 1 to {number}: (1, {number}) is the first"
        )
    return slice(index - 1, None, number)


def carry_out(
    plan: Plan,
    work: Work,
    store: Store,
    num_frames: Mapping[str, int],
    *,
    workers: int,
    scheduler: str | None,
    strict: bool,
    progress: bool,
) -> Store:
    """Do what is planned; show how far it is, and list what fails.

    Args:
        plan: What is to be done.
        work: How.
        store: Where the runs go.
        num_frames: Number of frames of each run, by its key; 0 where it is not known.
        workers: Number of processes.
        scheduler: Address of a Dask scheduler, whose workers then do it.
        strict: Whether the first failure ends the job.
        progress: Whether to show the progress.

    Returns:
        The store, with all runs that are in it now.

    Raises:
        PrepareError: Runs failed.
        ConnectionError: The scheduler does not answer.
    """
    plan.relabel(store)
    shown = Progress({job.key: num_frames.get(job.key, 0) for job in plan.jobs}, plan.num_there, progress)
    watch = JobWatch(store.place, shown, strict=strict)
    try:
        with suppress(JobEndsError):
            if not plan.jobs:
                pass
            elif scheduler is not None:
                on_dask(plan.jobs, work, watch, scheduler)
            elif workers > 1:
                in_processes(plan.jobs, work, watch, workers)
            else:
                in_this_process(plan.jobs, work, watch)
    except KeyboardInterrupt:
        watch.note("interrupted: what is done is in the store, and the same command goes on from there")
        raise
    finally:
        shown.close()
        watch.write()

    store.refresh()
    if plan.jobs or plan.relabelled:
        # it only saves time, and another job may have replaced it meanwhile
        with suppress(OSError):
            store.write_index()
    if watch.failures:
        num_left = len(plan.jobs) - watch.num_ended
        raise PrepareError(watch.failures, store, num_left, store.place.below(watch.table))
    return store
