"""From the runs of a study to a store."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from nstorm.data.in_threads import in_threads
from nstorm.data.preparation.carry_out import carry_out, check_workers, slice_of
from nstorm.data.preparation.failures import MOST_LISTED
from nstorm.data.preparation.job import Job, Work
from nstorm.data.preparation.one_run import fault_of
from nstorm.data.preparation.plan import named, planned
from nstorm.data.preparation.presets import PRESETS
from nstorm.data.preparation.recipe import Recipe
from nstorm.data.store.store import Store
from nstorm.data.study.study import Study
from nstorm.data.wording import counted


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
        ValueError: There are problems with the study, the recipe does not suit its runs, or the store has them in
            another form; or an argument has no meaning.
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
    check_workers(workers, scheduler)
    mine = slice_of(part)
    runs = _study_of(study)
    store = store if isinstance(store, Store) else Store(store, create=True)
    report = runs[mine].check(ignore=_accepted(ignore, recipe), progress=progress)
    work = Work(store.place, recipe, one_file)
    plan = planned(named(runs)[mine], work, store, overwrite=overwrite, progress=progress)
    _check_suited(plan.jobs, recipe)
    frames = {image: header.num_frames for image, header in report.headers.items()}
    return carry_out(
        plan,
        work,
        store,
        {job.key: frames.get(job.item["image"], 0) for job in plan.jobs},
        workers=workers,
        scheduler=scheduler,
        strict=strict,
        progress=progress,
    )


def _check_suited(jobs: Sequence[Job], recipe: Recipe) -> None:
    """Refuse runs that a recipe does not suit; over night each of them would fail."""
    faults = [fault for fault in in_threads(partial(_fault_of, recipe), jobs) if fault]
    if faults:
        more = f"\n  and {len(faults) - MOST_LISTED:,} more" if len(faults) > MOST_LISTED else ""
        listed = "\n  ".join(faults[:MOST_LISTED])
        raise ValueError(f"the recipe does not suit {counted(len(faults), 'run')} of the study:\n  {listed}{more}")


def _fault_of(recipe: Recipe, job: Job) -> str:
    try:
        return fault_of(job.item, recipe)
    except (OSError, ValueError):
        # what cannot be read was listed by the check; where that was accepted, it fails in its turn
        return ""


def _recipe_of(preset: str, recipe: Recipe | None) -> Recipe:
    if recipe is not None:
        return recipe
    if preset not in PRESETS:
        raise ValueError(
            f"preset is {preset!r}, but it has to be one of {', '.join(map(repr, PRESETS))}; or give a recipe"
        )
    return PRESETS[preset]


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
