"""From folders of the published preparations to a store."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from torch import Tensor

from nstorm.data.clips.items import run_item
from nstorm.data.in_threads import in_threads
from nstorm.data.preparation.carry_out import carry_out, check_workers, slice_of
from nstorm.data.preparation.job import Job, Moved, Work
from nstorm.data.preparation.plan import named, planned
from nstorm.data.preparation.presets import PRESETS
from nstorm.data.preparation.published_run import convert_run, why_again
from nstorm.data.published import TR
from nstorm.data.store.encoding import Stored
from nstorm.data.store.published_files import is_of_run
from nstorm.data.store.published_format import PublishedRun, checked_tr
from nstorm.data.store.record import RunRecord
from nstorm.data.store.store import Store
from nstorm.data.study.study import Study


def published_runs(folder: str | PathLike[str]) -> Study:
    """Find the runs that a published preparation wrote: all folders below one that hold ``data.pt`` or frames.

    What the name of such a folder says in the words of BIDS (``sub-01_ses-2_task-rest``) is known of the run; any other
    name is that of its subject. For names such as ``100307_REST1_LR`` describe them by a pattern:
    ``Study.from_pattern(folder, "{subject}_{task}_{dir}/data.pt")``.

    Args:
        folder: The folder to look in, such as ``img`` of the published preparation. It may be that of a run itself.

    Returns:
        A study, whose parts can be taken (``[2::16]``) and to which labels can be joined, for
        :func:`nstorm.data.convert_published`. Its images are folders, so that its ``check`` does not apply.

    Raises:
        FileNotFoundError: There is no such folder, or no run in it.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder} is no folder: give one with the folders of published runs in it")
    items = [run_item(path) for path in sorted(_folders(Path(folder).absolute()))]
    if not items:
        raise FileNotFoundError(f"{folder} holds no published run: no folder in it has a data.pt or a frame_0.pt")
    return Study({**item, "subject": item["subject"] or Path(item["image"]).name} for item in items)


def convert_published(
    runs: "Study | str | PathLike[str] | Iterable[Mapping[str, Any]]",
    store: "Store | str | PathLike[str]",
    *,
    tr: float = TR,
    affine: ArrayLike | Tensor | None = None,
    dtype: Stored = "int8",
    workers: int = 1,
    scheduler: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    part: tuple[int, int] | None = None,
    one_file: bool = False,
    progress: bool = True,
) -> Store:
    """Put runs of the published NeuroSTORM or SwiFT preparation into a store.

    The store then has them as :func:`nstorm.data.prepare` makes them with the preset ``"published"``: ``"global"``
    reads what the files hold, background and all, as the published weights need it; ``"none"`` the values above the
    lowest one, which are in proportion to the intensities; ``"zscore"`` and ``"percent"`` what they say, of what the
    files have kept. No value is farther from that in the file than half of its step, and than half of the step with
    which the store keeps the voxel.

    Runs that are in the store already are left as they are, so that a job that was killed goes on when it is started
    again. A run that fails is reported at once, the others go on, and all failures are listed in the end and in
    ``STORE/failures``. Bytes that have changed since a file was written are found by its checksums.

    Args:
        runs: A folder with the folders of runs in it (:func:`published_runs`), or run items whose ``image`` is the
            folder of a run or a file in it. An item's own ``tr`` counts before the argument.
        store: A folder, or a URL that fsspec knows; it is begun if it is not there. Or an open store.
        tr: The repetition time in seconds, which the files do not say (:func:`load_published`).
        affine: From voxels to mm, 4x4; by default that of runs of 91 x 96 x 91 voxels.
        dtype: How values are stored.
        workers: Number of processes, each with one run in memory.
        scheduler: Address of a Dask scheduler, whose workers then convert the runs; as of :func:`nstorm.data.prepare`.
        strict: Whether to stop at the first failure.
        overwrite: Whether to convert runs again that are in the store in another way, or from files that have changed.
        part: Which part of the runs to convert, for arrays of cluster jobs: ``(3, 16)`` is the third of sixteen.
        one_file: Whether the frames of a run go into one file.
        progress: Whether to show the progress.

    Returns:
        The store, with these runs and all others in it.

    Raises:
        PrepareError: Runs failed; it says which and why, and has the store.
        ValueError: Runs have no name or the same, or are in the store in another form.
        FileNotFoundError: There is no such folder, or no run in it.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from nstorm.data import load_bold, prepare_published, rest_run
        >>> from nstorm.data.preparation.from_published import convert_published
        >>> from nstorm.data.store.published_format import load_published
        >>> run, step = prepare_published(load_bold(rest_run().bold)[:2], quantize=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     os.makedirs(f"{folder}/img/100307")
        ...     saved = {"frames": run.as_tensor(), "scale": step, "num_frames": len(run)}
        ...     torch.save(saved, f"{folder}/img/100307/data.pt")
        ...     store = convert_published(f"{folder}/img", f"{folder}/store", affine=run.affine, progress=False)
        ...     clip = store["sub-100307"].read(0, 3, normalize="global")
        ...     theirs = load_published(f"{folder}/img/100307", affine=run.affine, frames=(0, 3))
        >>> float((clip[0].movedim(-1, 0) - theirs).abs().max()) < step / 2
        True
    """
    checked_tr(tr)
    check_workers(workers, scheduler)
    mine = slice_of(part)
    jobs = named(_study_of(runs))[mine]
    store = store if isinstance(store, Store) else Store(store, create=True)
    work = Conversion(store.place, PRESETS["published"].but(dtype=dtype), one_file, tr, affine)
    plan = planned(jobs, work, store, overwrite=overwrite, progress=progress)
    num_frames = dict(in_threads(_num_frames, plan.jobs))
    return carry_out(
        plan, work, store, num_frames, workers=workers, scheduler=scheduler, strict=strict, progress=progress
    )


@dataclass(frozen=True, slots=True)
class Conversion(Work):
    """How published runs are converted; it can be sent to other processes."""

    tr: float
    affine: ArrayLike | Tensor | None

    def made(self, job: Job, moved: Moved) -> RunRecord:
        """Convert a run."""
        return convert_run(
            job.item,
            self.place,
            self.recipe,
            key=job.key,
            tr=self.tr_of(job),
            affine=self.affine,
            one_file=self.one_file,
            progress=moved,
        )

    def why_again(self, job: Job, record: RunRecord) -> str:
        """Say why a stored run is not the one that is wanted; ``""`` if it is."""
        return why_again(job.item, record, self.recipe, tr=self.tr_of(job), affine=self.affine)

    def tr_of(self, job: Job) -> float:
        """Give the repetition time of a run."""
        return float(job.item.get("tr", self.tr))


def _study_of(runs: "Study | str | PathLike[str] | Iterable[Mapping[str, Any]]") -> Study:
    if isinstance(runs, Study):
        return runs
    return published_runs(runs) if isinstance(runs, str | PathLike) else Study(runs)


def _num_frames(job: Job) -> tuple[str, int]:
    try:
        return job.key, PublishedRun(job.item["image"]).num_frames
    except (OSError, ValueError):
        # said when the run is converted
        return job.key, 0


def _folders(folder: Path) -> Iterator[Path]:
    below = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_of_run(entry.name):
                yield folder
                return
            if entry.is_dir():
                below.append(Path(entry.path))
    for inner in below:
        yield from _folders(inner)
