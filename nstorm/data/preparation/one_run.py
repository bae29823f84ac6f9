"""From the files of a run to its place in a store."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.clips.items import FILES, run_of
from nstorm.data.files.nifti import open_nifti
from nstorm.data.files.reader import BOLDFile
from nstorm.data.preparation.brain import brain_of
from nstorm.data.preparation.in_space import fault_of_space, in_space
from nstorm.data.preparation.in_time import in_time
from nstorm.data.preparation.provenance import provenance
from nstorm.data.preparation.recipe import Recipe
from nstorm.data.preparation.sources import check_unchanged, file_of, given_tr, labels_of, sources_of
from nstorm.data.preparation.tables import Motion, read_events, read_motion
from nstorm.data.preparation.threads import one_thread
from nstorm.data.published import CHUNK, settle
from nstorm.data.report.quality import quality_of
from nstorm.data.store.place import Place
from nstorm.data.store.record import RunRecord
from nstorm.data.store.write import write_run

Progress = Callable[[str, float], None]


def prepare_run(
    item: Mapping[str, Any],
    place: Place,
    recipe: Recipe,
    *,
    key: str | None = None,
    one_file: bool = False,
    progress: Progress = lambda stage, share: None,
) -> RunRecord:
    """Prepare one run and write it into a store; it is in the store when this returns, and not at all before.

    The frames are read one after the other, and go through the steps in space some at a time. What stays in memory is
    the voxels of the brain, which then go through the steps in time.

    Args:
        item: The run: ``image``, and as far as they are known ``mask``, ``confounds`` and ``events`` (files), ``tr`` in
            seconds, and labels.
        place: The store's.
        recipe: What is done with the run.
        key: Names the run; by default :func:`nstorm.data.clips.items.run_of` does.
        one_file: Whether its frames go into one file.
        progress: Told what is being done, and the share of the whole that is done, from 0 to 1.

    Raises:
        OSError: A file cannot be read, or the store not be written.
        ValueError: A file is damaged or does not suit the recipe; the message names it.

    Example:
        >>> import tempfile
        >>> from nstorm.data import haxby_runs, run_item
        >>> from nstorm.data.preparation.one_run import prepare_run
        >>> from nstorm.data.preparation.recipe import Recipe
        >>> from nstorm.data.store.store import Store
        >>> run = haxby_runs()[0]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(folder, create=True)
        ...     record = prepare_run(run_item(run.bold, events=run.events), store.place, Recipe(tr=2.0))
        >>> record.key, record.num_frames, record.num_voxels
        ('sub-001_task-objectviewing_run-01', 151, 530)
    """
    try:
        with one_thread():
            return _prepared(item, place, recipe, run_of(item) if key is None else key, one_file, progress)
    except ValueError as error:
        if any(name in str(error) for name in (*filter(None, (file_of(item, key) for key in FILES)), str(place))):
            raise
        raise ValueError(f"{file_of(item, 'image')}: {error}") from error


def _prepared(
    item: Mapping[str, Any], place: Place, recipe: Recipe, key: str, one_file: bool, progress: Progress
) -> RunRecord:
    began = time.monotonic()
    progress("opening", 0.0)
    if fault := fault_of(item, recipe):
        raise ValueError(fault)
    file = BOLDFile(file_of(item, "image"), tr=given_tr(item))
    header = open_nifti(file.path)
    labels, sources = labels_of(item), sources_of(item, recipe, file.tr)
    table, events = file_of(item, "confounds"), file_of(item, "events")
    motion = read_motion(table, file.num_frames) if table else Motion()
    kept = {"events": read_events(events)} if events else {}

    def frames(stage: str, first: float, last: float) -> Iterator[Any]:
        done = 0
        for block in file.blocks(CHUNK, fill_nan=recipe.fill_nan):
            yield block
            done += len(block)
            progress(stage, first + done / file.num_frames * (last - first))

    brain, origin = brain_of(file_of(item, "mask"), file, recipe, lambda: frames("finding the brain", 0.0, 0.3))
    inside = brain.numpy()[0]
    values = _in_brain(frames("reading", 0.3, 0.6), file, recipe, inside)
    check_unchanged(sources)
    made = in_time(values, file, recipe, lambda share: progress("steps in time", 0.6 + 0.1 * share))
    del values
    source = {
        "shape": file.shape,
        "affine": file.affine.tolist(),
        "tr": file.tr,
        "dtype": str(file.dtype),
        "space_code": header.space_code,
    }
    attributes = {**kept, "mask": origin, "replaced_frames": made.replaced, **provenance(source, recipe, began)}
    if recipe.published:
        attributes["global"] = _settled(made.values, origin, str(file.path))
    nearest = made.nearest(file)
    displacement = None if motion.displacement is None else motion.displacement[nearest]
    progress("measuring quality", 0.7)
    extras = quality_of(made.values, inside, framewise_displacement=displacement)
    if motion.parameters is not None:
        extras["motion"] = motion.parameters[nearest]
    progress("writing", 0.75)
    return write_run(
        place,
        key,
        made.values,
        inside,
        affine=brain.affine.numpy(),
        tr=made.tr,
        start_time=made.start_time,
        space_code=header.space_code,
        labels=labels,
        dtype=recipe.dtype,
        sources=sources,
        recipe=recipe.digest,
        attributes=attributes,
        extras=extras,
        one_file=one_file,
        progress=lambda share: progress("writing", 0.75 + 0.25 * share),
    )


def fault_of(item: Mapping[str, Any], recipe: Recipe) -> str:
    """Say why a recipe does not suit a run, as far as its item and its header tell; ``""`` if it does.

    Raises:
        OSError: The image cannot be read.
        ValueError: The image is damaged.
    """
    image, table = file_of(item, "image"), file_of(item, "confounds")
    # nilearn looks for the table there
    beside = table and os.path.dirname(os.path.abspath(image)) == os.path.dirname(os.path.abspath(table))
    if recipe.confounds is not None and not beside:
        return (
            f"{image} has {table or 'no table'} under 'confounds', but the recipe removes confounds: give the item "
            "fMRIPrep's table, beside the image, or take a recipe without confounds"
        )
    return fault_of_space(item, recipe)


def _in_brain(frames: Iterable[Any], file: BOLDFile, recipe: Recipe, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Collect the voxels of the brain ``(T, V)``, in C order."""
    places = np.flatnonzero(inside)
    values = np.empty((file.num_frames, len(places)), np.float32)
    start = 0
    for block in frames:
        moved = in_space(block, recipe).numpy().reshape(len(block), -1)
        # with "clip" numpy writes into the result itself
        np.take(moved, places, axis=1, out=values[start : start + len(block)], mode="clip")
        start += len(block)
    if len(values) > 1 and all(np.array_equal(values[0], frame) for frame in values[1:]):
        raise ValueError(f"{file.path} has no voxel of the brain that changes: export it again, or leave the run out")
    return values


def _settled(values: NDArray[np.float32], origin: str, name: str) -> dict[str, float]:
    """Do what the published preparation does with negative values and zeros; give its mean and standard deviation."""
    frames = torch.from_numpy(values)
    # without a mask, the background is what is exactly 0, frame by frame
    background: Tensor = frames == 0 if origin == "not zero" else torch.zeros(()).bool().expand_as(frames)
    mean, std, _ = settle(frames, background, name)
    return {"mean": mean, "std": std, "lowest": float(frames.min())}
