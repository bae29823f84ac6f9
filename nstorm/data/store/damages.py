"""What of one run is not what was written."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from nstorm.data.store.encoding import is_absent
from nstorm.data.store.record import RunRecord
from nstorm.data.store.stored_run import REMEDY, StoredRun, said_of
from nstorm.data.store.write import ABOUT, ROWS, sealed

# what zarr raises of damaged files is of many types
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, OSError)


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not what was written.

    Attributes:
        key: Names the run.
        what: What is wrong, in words.
        remedy: What to do.
    """

    key: str
    what: str
    remedy: str = REMEDY

    def __str__(self) -> str:
        return f"{self.key}: {self.what}: {self.remedy}"


def damages_of(run: StoredRun) -> list[Damage]:
    """Read all of a run, a chunk at a time, and compare it with its checksums and its record."""
    found = [*_of_attributes(run)]
    for name in {**_expected(run.record), **run.record.checksums}:
        found += _of_array(run, name)
    return [Damage(run.record.key, what) for what in found]


def _expected(record: RunRecord) -> dict[str, tuple[tuple[int, ...], str]]:
    """Give the shape and the type of the arrays of a run."""
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        "bold": ((record.num_frames, record.num_voxels), record.dtype),
        "voxels": ((len(ROWS), record.num_voxels), "float32"),
        "mask": ((math.ceil(math.prod(record.shape) / 8),), "uint8"),
    }
    if record.far:
        expected["far"] = ((len(record.far), record.num_voxels), "float16")
    return expected


def _of_attributes(run: StoredRun) -> Iterator[str]:
    try:
        attributes = run.attributes
    except _BROKEN as error:
        yield f"its attributes cannot be read ({error.__cause__ or error})"
        return
    for name in ABOUT:
        here, there = attributes.get(name), getattr(run.record, name)
        # as text, in which tuples are lists
        if json.dumps(here) != json.dumps(there):
            yield f"its attributes have {name} {here!r}, but its record {there!r}"
    if attributes.get("crc32") != sealed(attributes)["crc32"]:
        yield "its attributes are damaged (their checksum is another one)"


def _of_array(run: StoredRun, name: str) -> Iterator[str]:
    record = run.record
    try:
        array = run.open(name)
    except FileNotFoundError:
        yield f"{name} is not there"
        return
    except _BROKEN as error:
        yield f"{name} cannot be opened ({error})"
        return
    found = (array.shape, array.dtype.name)
    if found != (expected := _expected(record).get(name, found)):
        yield f"{name} has shape {found[0]} and type {found[1]}, not {expected[0]} and {expected[1]}"
        return
    digest = hashlib.sha256()
    broken = []
    for start, stop in _blocks(array):
        try:
            block = np.ascontiguousarray(array[start:stop])
        except _BROKEN as error:
            broken.append(f"{name} is damaged in {_rows(name, start, stop)} ({said_of(error)})")
            continue
        digest.update(block.data)
        if name == "bold" and is_absent(block).any():
            broken.append(f"bold has no chunk with {_rows(name, start, stop)}")
        broken += _of_values(name, block, start, record.num_voxels)
    if not broken and digest.hexdigest() != record.checksums.get(name):
        broken.append(f"{name} is not what was written (its SHA-256 is another one)")
    yield from broken


def _blocks(array: "zarr.Array[Any]") -> Iterator[tuple[int, int]]:
    length, step = array.shape[0], array.chunks[0]
    for start in range(0, length, step):
        yield start, min(start + step, length)


def _rows(name: str, start: int, stop: int) -> str:
    return f"{'frames' if name == 'bold' else 'rows'} {start} to {stop - 1}"


def _of_values(name: str, block: NDArray[Any], start: int, num_voxels: int) -> Iterator[str]:
    if name == "voxels":
        if not np.isfinite(block).all():
            yield f"voxels has NaN or infinite values in {_rows(name, start, start + len(block))}"
        elif start == 0 and not (block[0] > 0).all():
            yield "voxels has a scale of 0 or less"
    if name == "mask" and (inside := int(np.bitwise_count(block).sum(dtype=np.int64))) != num_voxels:
        yield f"mask has {inside} voxels, but the record {num_voxels}"
