"""Runs of a store as NIfTI files."""

import csv
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from nstorm.data.bars import bar
from nstorm.data.clips.events import COLUMNS
from nstorm.data.files.atomic import written_whole
from nstorm.data.files.writer import save_bold, save_mask
from nstorm.data.store.folded import Normalization
from nstorm.data.store.store import Store
from nstorm.data.store.stored_run import StoredRun
from nstorm.data.wording import counted, some_of

BOLD, MASK, EVENTS = "_bold.nii.gz", "_desc-brain_mask.nii.gz", "_events.tsv"


def export(
    store: Store,
    folder: str | PathLike[str],
    keys: Iterable[str] | None = None,
    *,
    normalize: Normalization = "none",
    overwrite: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Write runs as NIfTI: for each ``KEY_bold.nii.gz`` with its sidecar, its mask, and its events where it has any.

    The images are float32. In the mask the values are those that were prepared, to half a step of the codes; outside it
    is 0. Affine and repetition time are the same. The image starts with the first frame of the run in the store, and
    onsets of events count from there. One run is in memory at a time. Files are whole or not there.

    Args:
        store: The store.
        folder: Where the files go; it is made.
        keys: Names of runs; by default all.
        normalize: See :class:`nstorm.data.store.stored_run.StoredRun`.
        overwrite: Whether to replace files that are there.
        progress: Whether to show a progress bar.

    Returns:
        The images.

    Raises:
        FileExistsError: Files are there, and they are not to be overwritten; nothing is written then.
        KeyError: There is no such run; nothing is written then.
        ValueError: A run is damaged, or there is no such normalisation.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from nstorm.data import load_bold
        >>> from nstorm.data.store.export import export
        >>> from nstorm.data import Store
        >>> from nstorm.data.store.write import write_run
        >>> values, mask = np.random.randn(20, 6).astype("float32"), np.ones((1, 2, 3), bool)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(f"{folder}/store", create=True)
        ...     _ = write_run(store.place, "sub-1_task-rest", values, mask, affine=np.eye(4), tr=2.0)
        ...     store.refresh()
        ...     (image,) = export(store, f"{folder}/nifti", progress=False)
        ...     sorted(file.name for file in image.parent.iterdir())
        ...     load_bold(image).shape
        ['sub-1_task-rest_bold.json', 'sub-1_task-rest_bold.nii.gz', 'sub-1_task-rest_desc-brain_mask.nii.gz']
        torch.Size([20, 1, 2, 3])
    """
    folder = Path(folder)
    runs = [store[key] for key in (store if keys is None else keys)]
    images = [folder / f"{run.record.key}{BOLD}" for run in runs]
    # masks as fMRIPrep names them are not to be lost either
    files = [folder / f"{run.record.key}{ending}" for run in runs for ending in (BOLD, MASK, EVENTS)]
    if not overwrite and (there := [file.name for file in files if file.exists()]):
        raise FileExistsError(
            f"{folder} has {counted(len(there), 'file')} of these runs already ({some_of(there, 3)}): give another "
            "folder, or pass overwrite=True"
        )
    for run, image in zip(bar(runs, "export", unit="run", show=progress), images, strict=True):
        _export(run, image, normalize)
    return images


def _export(run: StoredRun, image: Path, normalize: Normalization) -> None:
    from monai.data.meta_tensor import MetaTensor

    stem = image.name.removesuffix(BOLD)
    like = run.meta()
    mask = MetaTensor(
        torch.from_numpy(run.mask)[None], affine=torch.tensor(run.record.affine, dtype=torch.float64), meta=like
    )
    save_mask(image.with_name(f"{stem}{MASK}"), mask, overwrite=True)
    if events := run.attributes.get("events"):
        _write_events(image.with_name(f"{stem}{EVENTS}"), events, run.record.start_time)
    else:
        image.with_name(f"{stem}{EVENTS}").unlink(missing_ok=True)
    # the image comes last: where it is, all is
    save_bold(image, run.read(normalize=normalize), sidecar=True, overwrite=True)


def _write_events(path: Path, events: Iterable[dict[str, Any]], start_time: float) -> None:
    with written_whole(path, overwrite=True) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="n/a", extrasaction="ignore", delimiter="\t", lineterminator="\n")
        table.writeheader()
        for event in events:
            known = {name: value for name, value in event.items() if value is not None}
            table.writerow({**known, "onset": event["onset"] - start_time})
