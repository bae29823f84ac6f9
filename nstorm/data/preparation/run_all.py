"""From the runs of a study to a store."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

from nstorm.data.preparation.dask_cluster import on_dask
from nstorm.data.preparation.failures import PrepareError
from nstorm.data.preparation.job import Job, Work, in_this_process
from nstorm.data.preparation.plan import named, planned
from nstorm.data.preparation.pool import in_processes
from nstorm.data.preparation.presets import PRESETS
from nstorm.data.preparation.progress import Progress
from nstorm.data.preparation.recipe import Recipe
from nstorm.data.preparation.watch import JobEndsError, JobWatch
from nstorm.data.store.store import Store
from nstorm.data.study.study import Study


def prepare(
    study: "Study | str | PathLike[str] | Iterable[Mapping[str, Any]]",
    store: "Store | str | PathLike[str]",
    *,
    preset: str = "native",
    recipe: Recipe | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    strict: bool = False,
    ignore: Collection[str] = (),
    overwrite: bool = False,
    part: tuple[int, int] | None = None,
    one_file: bool = False,
    progress: bool = True,
) -> Store:
    """Prepare the runs of a study for training: once, and for good.

    All that is wrong with the study is listed before any work (:meth:`nstorm.data.Study.check`). Then runs that are in
    the store already are left as they are, so that a job that was killed goes on where it was when it is started again.
    A run is in the store when it is whole, and not before; other jobs may write the same store, and readers read it.

    A run that fails is reported at once, the others go on, and all failures are listed in the end and in
    ``STORE/failures``. When nothing more can be written, as on a full disk, the job stops.

    Args:
        study: A study; a BIDS folder or a manifest, as :meth:`nstorm.data.Study.from_bids` and
            :meth:`nstorm.data.Study.from_manifest` take them; or run items.
        store: A folder, or a URL that fsspec knows; it is begun if it is not there. Or an open store.
        preset: What is done with each run, by name: ``"native"``, ``"4mm"`` or ``"published"``
            (:data:`nstorm.data.PRESETS`).
        recipe: What is done with each run, where no preset says it.
        workers: Number of processes. Each holds one run in memory, and they share the cores. A run whose process dies
            is tried once more in the end.
        scheduler: Address of a Dask scheduler (``"tcp://host:8786"``), whose workers then prepare the runs, one a
            thread; they have to see the files of the study and the store by the same paths. Needs ``nstorm[cluster]``.
        strict: Whether to stop at the first failure; runs in work are left off.
        ignore: Kinds of problems of the study that are accepted. Different TRs and grids are where the recipe makes
            them one.
        overwrite: Whether to prepare runs again that are in the store with another recipe, or from files that have
            changed.
        part: Which part of the study to prepare, for arrays of cluster jobs: ``(3, 16)`` is the third of sixteen, every
            sixteenth run from the third on.
        one_file: Whether the frames of a run go into one file; see :func:`nstorm.data.store.write.write_run`.
        progress: Whether to show the progress: a bar in a terminal, a line a minute in a log.

    Returns:
        The store, with these runs and all others in it.

    Raises:
        PrepareError: Runs failed; it says which and why, and has the store.
        ValueError: There are problems with the study, or the store has its runs in another form; or an argument has no
            meaning.
        FileNotFoundError: There is no such study.

    Example:
        >>> import tempfile
        >>> from nstorm.data import Study, haxby_runs
        >>> from nstorm.data.preparation.run_all import prepare
        >>> study = Study({"image": run.bold, "site": "Rutgers"} for run in haxby_runs()[:3])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = prepare(study, f"{folder}/store", preset="native", progress=False)
        ...     [item["run"] for item in store.run_items()]
        ['01', '02', '03']
    """
    recipe = _recipe_of(preset, recipe)
    if workers < 1:
        raise ValueError(f"workers is {workers}, but it has to be 1 or more")
    if scheduler is not None and workers != 1:
        raise ValueError(f"workers is {workers}, but {scheduler} has workers of its own: give one of the two")
    mine = _slice_of(part)
    runs = _study_of(study)
    store = store if isinstance(store, Store) else Store(store, create=True)
    report = runs[mine].check(ignore=_accepted(ignore, recipe), progress=progress)
    plan = planned(named(runs)[mine], store, recipe, overwrite=overwrite, progress=progress)
    plan.relabel(store)

    frames = {image: header.num_frames for image, header in report.headers.items()}
    shown = Progress({job.key: frames.get(job.item["image"], 0) for job in plan.jobs}, plan.num_there, progress)
    watch = JobWatch(store.place, shown, strict=strict)
    work = Work(store.place, recipe, one_file)
    try:
        if plan.jobs:
            _do(plan.jobs, work, watch, workers, scheduler)
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


def _do(jobs: Sequence[Job], work: Work, watch: JobWatch, workers: int, scheduler: str | None) -> None:
    with suppress(JobEndsError):
        if scheduler is not None:
            on_dask(jobs, work, watch, scheduler)
        elif workers > 1:
            in_processes(jobs, work, watch, workers)
        else:
            in_this_process(jobs, work, watch)


def _recipe_of(preset: str, recipe: Recipe | None) -> Recipe:
    if recipe is not None:
        return recipe
    if preset not in PRESETS:
        raise ValueError(
            f"preset is {preset!r}, but it has to be one of {', '.join(map(repr, PRESETS))}; or give a recipe"
        )
    return PRESETS[preset]


def _slice_of(part: tuple[int, int] | None) -> slice:
    index, number = part or (1, 1)
    if not 1 <= index <= number:
        raise ValueError(
            f"part is {part}, but the parts of {number} are numbered from 1 to {number}: (1, {number}) is the first"
        )
    return slice(index - 1, None, number)


def _study_of(study: "Study | str | PathLike[str] | Iterable[Mapping[str, Any]]") -> Study:
    if isinstance(study, Study):
        return study
    if not isinstance(study, str | PathLike):
        return Study(study)
    if not Path(study).exists():
        raise FileNotFoundError(f"{study} is not there: give a BIDS folder or a manifest, or a study")
    return Study.from_bids(study) if Path(study).is_dir() else Study.from_manifest(study)


def _accepted(ignore: Collection[str], recipe: Recipe) -> set[str]:
    made_one = {"tr": recipe.tr is not None or recipe.published, "grid": recipe.grid == "mni152" or recipe.published}
    return {*ignore, *(kind for kind, is_so in made_one.items() if is_so)}
