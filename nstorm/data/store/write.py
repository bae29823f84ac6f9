"""Writing a run: all of it under the name of one attempt, and then the record that makes it count."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from nstorm.data.store.encoding import ABSENT, Encoded, Stored, encode
from nstorm.data.store.place import Place
from nstorm.data.store.record import SCHEMA, RunRecord, check_key, crc32, new_attempt
from nstorm.data.store.signals import signals_wait

FRAMES_PER_CHUNK = 20
ROWS = ("scale", "offset", "mean", "std")
ABOUT = ("key", "shape", "affine", "tr", "start_time", "space_code")
"""What the attributes of a run have in common with its record."""

_UNSEALED = ("crc32", "times")

# the chunks and the attributes of each
_Arrays = dict[str, tuple[NDArray[Any], tuple[int, ...], dict[str, Any]]]
_Progress = Callable[[float], None]


def write_run(
    place: Place,
    key: str,
    values: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    affine: NDArray[np.float64],
    tr: float,
    start_time: float = 0.0,
    space_code: int = 2,
    labels: Mapping[str, Any] | None = None,
    dtype: Stored = "int8",
    step: float | None = None,
    sources: Mapping[str, Mapping[str, Any]] | None = None,
    recipe: str = "",
    attributes: Mapping[str, Any] | None = None,
    extras: Mapping[str, NDArray[Any]] | None = None,
    one_file: bool = False,
    progress: _Progress = lambda share: None,
) -> RunRecord:
    """Write a run into a store; it is in the store when this returns, and not at all before.

    Two may write the same run at once, or one after the other: the later attempt counts. Nothing is ever changed, so
    readers are not disturbed. Ctrl-C, or a SIGTERM that is handled, waits until the files are written, but a second one
    does not.

    Args:
        place: The store's.
        key: Names the run, in letters that the name of a file may have everywhere (``run_of`` gives such).
        values: ``(T, V)``, finite: the voxels of the mask in C order. It is not kept.
        mask: The brain, ``(H, W, D)``.
        affine: Of the grid, 4x4.
        tr: The repetition time in seconds.
        start_time: The time of the first frame in seconds.
        space_code: NIfTI's code of the space: 1 the scanner's, 2 that of another image, 4 MNI152.
        labels: What is known of the run, as JSON can hold it, or NaN; they are read with the list of runs.
        dtype: The type to store, or to begin with; see :func:`nstorm.data.store.encoding.encode`.
        step: What all values are multiples of, where they were rounded before: int8 then keeps them as they are.
        sources: The files that the values follow from; see :class:`RunRecord`.
        recipe: Digest of the parameters that the values follow from.
        attributes: What else is to be kept, as JSON can hold it, such as parameters and versions.
        extras: Small arrays that belong to the run, by their names, other ones than ``bold`` and the like.
        one_file: Whether the frames go into one file rather than one for every 20 frames: for file systems with a quota
            of files. Reading the first time is then about half as fast.
        progress: Told the share that is done, from 0 to 1.

    Raises:
        ValueError: The values, the mask, the affine, the TR, a label or the key are not what they have to be.
        OSError: The store cannot be written.
    """
    check_key(key)
    _check(key, values, mask, affine, tr)
    encoded = encode(values, dtype, step)
    progress(0.4)
    num_frames, num_voxels = values.shape
    voxels = np.stack([encoded.scale, encoded.offset, encoded.mean, encoded.std], dtype=np.float32, casting="same_kind")
    arrays: _Arrays = {
        "bold": (encoded.codes, (min(FRAMES_PER_CHUNK, num_frames), num_voxels), {}),
        # two rows are read for raw values, four for normalised ones
        "voxels": (voxels, (2, num_voxels), {"rows": ROWS}),
        "mask": (np.packbits(mask.reshape(-1)), (math.ceil(mask.size / 8),), {"shape": mask.shape}),
    }
    if encoded.far.size:
        arrays["far"] = (encoded.far_codes, (1, num_voxels), {"frames": encoded.far.tolist()})
    for name, extra in (extras or {}).items():
        if name in (*arrays, "far"):
            raise ValueError(f"an extra of {key} has the name {name}, which another array of the run has: rename it")
        arrays[name] = (extra, tuple(max(1, size) for size in extra.shape), {})

    attempt = new_attempt()
    record = RunRecord(
        key=key,
        attempt=attempt,
        arrays=attempt,
        labels=dict(labels or {}),
        num_frames=num_frames,
        num_voxels=num_voxels,
        shape=tuple(mask.shape),
        affine=tuple(tuple(map(float, row)) for row in affine),
        tr=float(tr),
        start_time=float(start_time),
        dtype=encoded.codes.dtype.name,
        far=tuple(map(int, encoded.far)),
        space_code=space_code,
        sources=dict(sources or {}),
        recipe=recipe,
        checksums={name: checksum(array) for name, (array, _, _) in arrays.items()},
    )
    record_text = record.to_json()
    about_run = _about(record, values, encoded, attributes or {})
    progress(0.6)
    with signals_wait():
        _write_arrays(place, record, arrays, about_run, one_file, progress)
        try:
            place.put(record.name, record_text)
        except OSError as error:
            # the arrays stay: the record may be there all the same
            raise OSError(f"{place.below(record.name)} could not be written: {error}") from error
    progress(1.0)
    return record


def _write_arrays(
    place: Place, record: RunRecord, arrays: _Arrays, about_run: dict[str, Any], one_file: bool, progress: _Progress
) -> None:
    try:
        folder = place.zarr(record.folder, read_only=False)
        zarr.create_group(folder, attributes=about_run)
        for name, (array, chunks, about) in arrays.items():
            whole = (math.ceil(record.num_frames / chunks[0]) * chunks[0], record.num_voxels)
            zarr.create_array(
                folder,
                name=name,
                data=np.ascontiguousarray(array),
                chunks=chunks,
                shards=whole if one_file and name == "bold" else None,
                filters=None,
                compressors=[Crc32cCodec()],
                # of a chunk that is lost, so that it is not taken for zeros
                fill_value=ABSENT["float32"] if array.dtype.kind == "f" else ABSENT.get(array.dtype.name, 0),
                config={"write_empty_chunks": True},
                attributes=_json(about),
            )
        progress(0.9)
        place.sync(record.folder)
    except BaseException as error:
        _discard(place, record.folder)
        if isinstance(error, OSError):
            raise OSError(f"{place.below(record.folder)} could not be written: {error}") from error
        raise


def checksum(array: NDArray[Any]) -> str:
    """SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def relabel(place: Place, record: RunRecord, labels: Mapping[str, Any]) -> RunRecord:
    """Give a run other labels; its arrays stay as they are."""
    changed = replace(record, labels=dict(labels), attempt=new_attempt())
    place.put(changed.name, changed.to_json())
    return changed


def _check(
    key: str, values: NDArray[np.float32], mask: NDArray[np.bool_], affine: NDArray[np.float64], tr: float
) -> None:
    inside = np.count_nonzero(mask)
    if mask.ndim != 3 or not inside or values.ndim != 2 or values.shape[1] != inside or not len(values):
        raise ValueError(
            f"{key} has values of shape {values.shape} and a mask of shape {mask.shape} with {inside} voxels: give "
            "values (T, V) of the V voxels in a mask (H, W, D), with one frame and one voxel or more"
        )
    for number, frame in enumerate(values):
        if not np.isfinite(frame).all():
            raise ValueError(
                f"{key} has NaN or infinite values in frame {number}: replace them, as with fill_nan=0, or leave their "
                "voxels out of the mask"
            )
    if np.shape(affine) != (4, 4) or not np.isfinite(affine).all():
        raise ValueError(f"{key} has the affine {affine!r}: give 4x4 finite numbers")
    if not 0 < tr < math.inf:
        raise ValueError(f"{key} has the TR {tr!r}: give its repetition time in seconds")


def _about(
    record: RunRecord, values: NDArray[np.float32], encoded: Encoded, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    """Say of the group what any reader of zarr needs, and what else is to be kept."""
    number = values.size
    variance = (float(np.square(encoded.std).mean()) + float(encoded.mean.var())) * number / max(number - 1, 1)
    together = {"mean": float(encoded.mean.mean()), "std": math.sqrt(variance), "lowest": float(values.min())}
    about = {"schema": SCHEMA, **{name: getattr(record, name) for name in ABOUT}, "global": together, **attributes}
    try:
        return sealed(_json(about))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the attributes of {record.key} cannot be written as JSON: {error}") from error


def sealed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Add a checksum to attributes, of all but times, in which two preparations of a run may differ."""
    return {**attributes, "crc32": crc32({name: attributes[name] for name in attributes if name not in _UNSEALED})}


def _json(entries: Mapping[str, Any]) -> dict[str, Any]:
    # tuples become lists, and what JSON cannot hold is refused, NaN among it
    return dict(json.loads(json.dumps(entries, allow_nan=False)))


def _discard(place: Place, folder: str) -> None:
    # best effort on the way out of another error: what stays is an attempt without a record, which clean() removes
    try:
        place.remove(folder)
    except OSError:
        return
