"""From the files of one published run to its place in a store."""

import hashlib
import logging
import math
import time
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nstorm.data.preparation.provenance import provenance
from nstorm.data.preparation.recipe import Recipe
from nstorm.data.preparation.sources import CHANGED, OTHERWISE, labels_of
from nstorm.data.preparation.threads import one_thread
from nstorm.data.report.quality import quality_of
from nstorm.data.store.place import Place
from nstorm.data.store.published_files import AGAIN
from nstorm.data.store.published_format import MNI152_CODE, PublishedRun
from nstorm.data.store.record import RunRecord
from nstorm.data.store.write import write_run

_log = logging.getLogger("nstorm.data")


def convert_run(
    item: Mapping[str, Any],
    place: Place,
    recipe: Recipe,
    *,
    key: str,
    tr: float,
    affine: ArrayLike | Tensor | None = None,
    one_file: bool = False,
    progress: Callable[[str, float], None] = lambda stage, share: None,
) -> RunRecord:
    """Write a published run into a store; it is in the store when this returns, and not at all before.

    What is stored are the values above the lowest one, which is that of the background: intensities in units of their
    standard deviation, as they were before the mean was taken from them. Reading with ``normalize="global"`` takes it
    from them again.

    Args:
        item: The run: ``image``, its folder or a file in it, and labels.
        place: The store's.
        recipe: The published one, which says how values are stored.
        key: Names the run.
        tr: The repetition time in seconds.
        affine: From voxels to mm; by default that of the published grid.
        one_file: Whether the frames go into one file.
        progress: Told what is being done, and the share of the whole that is done, from 0 to 1.

    Raises:
        OSError: A file cannot be read, or the store not be written.
        ValueError: A file is damaged, or something else; the message names it.
    """
    began = time.monotonic()
    progress("opening", 0.0)
    labels, run = labels_of(item), PublishedRun(item["image"])
    matrix = run.affine(affine)
    before = _looks(run)
    progress("checking", 0.05)
    source = {"path": str(run.path.absolute()), **before, "sha256": _checked_digest(run)}
    with one_thread():
        values, mask, lowest = _above_lowest(run, lambda share: progress("reading", 0.2 + 0.4 * share))
        if _looks(run) != before:
            raise OSError(f"{run.path} has changed while it was read: convert the run again when it is whole")
        background = lowest * run.step
        # the z-scores of the files; what has no negative values is none, and becomes one when it is read
        scored = {"global": {"mean": -background, "std": 1.0, "lowest": 0.0}} if background < 0 else {}
        stored = {"format": run.format, "step": run.step, "background": background}
        progress("measuring quality", 0.6)
        extras = quality_of(values, mask)
        return write_run(
            place,
            key,
            values,
            mask,
            affine=matrix.numpy(),
            tr=tr,
            space_code=MNI152_CODE,
            labels=labels,
            dtype=recipe.dtype,
            step=run.step if run.step != 1 else None,
            sources={"image": source},
            recipe=recipe.digest,
            attributes={**scored, **provenance(stored, recipe, began)},
            extras=extras,
            one_file=one_file,
            progress=lambda share: progress("writing", 0.7 + 0.3 * share),
        )


def why_again(
    item: Mapping[str, Any], record: RunRecord, recipe: Recipe, *, tr: float, affine: ArrayLike | Tensor | None
) -> str:
    """Say why a stored run is not what :func:`convert_run` makes of the files as they are now; ``""`` if it is.

    Files whose size and time of the last change are the same are the same; otherwise their content is looked at.
    """
    try:
        run = PublishedRun(item["image"])
        if (record.recipe, record.tr) != (recipe.digest, tr) or run.affine(affine).tolist() != np.array(
            record.affine
        ).tolist():
            return OTHERWISE
        known, found = record.sources["image"], _looks(run)
        same = all(known[name] == found[name] for name in found) or known["sha256"] == _checked_digest(run)
        return "" if same else CHANGED
    except (OSError, ValueError):
        return CHANGED


def _above_lowest(
    run: PublishedRun, progress: Callable[[float], None]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], float]:
    """Collect the voxels that are not background in all frames ``(T, V)``; give the mask and the lowest number too."""
    highest, lowest = torch.full(run.shape, -torch.inf), math.inf
    for start, block in run.blocks():
        highest = torch.maximum(highest, block.amax(0))
        lowest = min(lowest, float(block.amin()))
        progress(start / run.num_frames / 2)
    mask = highest > lowest
    if not mask.any():
        raise ValueError(f"{run.path} has one value in all voxels and frames: leave the run out")
    if mask.all():
        _log.warning("%s has no voxel that keeps the lowest value, as background does: all are kept", run.path)
    places = mask.flatten().nonzero()[:, 0]
    values = np.empty((run.num_frames, len(places)), np.float32)
    for start, block in run.blocks():
        rows = torch.from_numpy(values[start : start + len(block)])
        rows[:] = block.flatten(1).index_select(1, places)
        # steps are counted before they become values: equal ones stay equal
        rows.sub_(lowest).mul_(run.step)
        progress(0.5 + start / run.num_frames / 2)
    return values, mask.numpy(), lowest


def _looks(run: PublishedRun) -> dict[str, int]:
    stats = [file.stat() for file in run.files]
    return {"size": sum(stat.st_size for stat in stats), "mtime_ns": max(stat.st_mtime_ns for stat in stats)}


def _checked_digest(run: PublishedRun) -> str:
    """SHA-256 of the files one after the other; torch itself does not look at their checksums."""
    digest = hashlib.sha256()
    for path in run.files:
        with open(path, "rb") as file:
            try:
                whole = zipfile.ZipFile(file).testzip() is None
            except (zipfile.BadZipFile, ValueError, EOFError):
                whole = False
            if not whole:
                raise ValueError(f"{path} is damaged: its content does not have its checksum: {AGAIN}")
            file.seek(0)
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
