"""A look at the files of each run: headers are read and lines are counted, but no voxels are read."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from nstorm.data.clips.items import FILES
from nstorm.data.files.nifti import open_nifti
from nstorm.data.files.reader import BOLDFile
from nstorm.data.in_threads import in_threads
from nstorm.data.space.grid import Grid
from nstorm.data.study.report import RunHeader
from nstorm.data.study.table import Row

Grids: TypeAlias = dict[tuple[tuple[int, ...], bytes], Grid]

# of one line a frame
_TABLES = (".tsv", ".csv", ".txt")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at the files of a run gave.

    Attributes:
        header: The header of the image, where it can be read.
        faults: What is wrong with the image, the mask or the confounds, in words, by the kind of problem.
        absent: The keys of the files that are not there.
    """

    header: RunHeader | None
    faults: dict[str, str]
    absent: tuple[str, ...]


def look_at_files(runs: Sequence[Row]) -> Iterator[Seen]:
    """Look at the files of each run, in order."""
    return in_threads(partial(_look, {}), runs)


def _look(grids: Grids, run: Row) -> Seen:
    header, faults = None, {}
    absent = [key for key in FILES if run.get(key) and not os.path.exists(run[key])]
    if "image" not in absent:
        try:
            file = BOLDFile(run["image"], tr=run.get("tr"))
            header = RunHeader(file.num_frames, file.tr, _grid(grids, file.shape, file.affine.numpy()))
        except (OSError, ValueError) as error:
            faults["image"] = str(error)
    for kind, fault_of in (("mask", partial(_fault_of_mask, grids)), ("confounds", _fault_of_confounds)):
        if run.get(kind) and kind not in absent:
            try:
                fault = fault_of(run[kind], header)
            except (OSError, ValueError) as error:
                fault = str(error)
            if fault:
                faults[kind] = fault
    return Seen(header, faults, tuple(absent))


def _grid(grids: Grids, shape: tuple[int, ...], affine: NDArray[np.float64]) -> Grid:
    # most runs of a study share their grid
    key = (shape[:3], affine.tobytes())
    return grids.get(key) or grids.setdefault(key, Grid(shape[:3], affine))


def _fault_of_mask(grids: Grids, path: str, header: RunHeader | None) -> str:
    mask = open_nifti(Path(path))
    if len(mask.shape) < 3 or any(size != 1 for size in mask.shape[3:]):
        return f"{path} has shape {mask.shape}, but a mask has three axes: save one volume of it"
    # load_mask brings masks of other grids to that of the run
    grid = _grid(grids, mask.shape, mask.affine)
    if header and grid is not header.grid and not _overlap(grid, header.grid):
        return f"{path} lies beside its run: the two are not in the same space, so give a mask in the run's space"
    return ""


def _overlap(a: Grid, b: Grid) -> bool:
    (a_low, a_high), (b_low, b_high) = _extent(a), _extent(b)
    return bool((a_low < b_high).all() and (b_low < a_high).all())


def _extent(grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    edges = (torch.tensor([-0.5, size - 0.5], dtype=torch.float64) for size in grid.shape)
    corners = torch.cartesian_prod(*edges) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return corners.amin(0), corners.amax(0)


def _fault_of_confounds(path: str, header: RunHeader | None) -> str:
    if header is None or not path.endswith(_TABLES):
        return ""
    table = Path(path).read_bytes()
    # the table may have a megabyte: only its end is copied
    end = table[-64:]
    lines = table.count(b"\n") - end[len(end.rstrip()) :].count(b"\n") + bool(end.strip())
    number = lines - _names_columns(table)
    if number == header.num_frames:
        return ""
    return (
        f"{path} has {number} rows for {header.num_frames} frames: give the table of this run, and remove rows of "
        "volumes that were cut off"
    )


def _names_columns(table: bytes) -> bool:
    first = re.search(rb"[^\s,;]+", table)
    try:
        float(first[0] if first else 0)
    except ValueError:
        return True
    return False
