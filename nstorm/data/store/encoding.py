"""The numbers of a run as codes: ``value = code * scale + offset``, with a scale and an offset for each voxel.

A scale a voxel spends the steps of an integer on the changes of that voxel over time. Rounding to steps of
``range / 254`` leaves a correlation of about ``1 - (range / std / 254)**2 / 24`` with the values that were given.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Stored = Literal["int8", "int16", "float16", "float32"]

ABSENT = {"int8": -128, "int16": -32768, "float16": float("nan"), "float32": float("nan")}
"""The code of no value: what zarr gives for a chunk that is not there."""

LEAST_CORRELATION = 0.9999
"""What every voxel keeps at least of its course over time."""

FAR = 3.0
# what holds more than a type
_NEXT: dict[Stored, Stored] = {"int8": "int16", "int16": "float32", "float16": "float32"}
# voxels that are looked at to find far frames, and values that are encoded at a time
_SAMPLE = 5000
_BLOCK = 2**18
_LARGEST_FLOAT16 = 65504


@dataclass(frozen=True, eq=False)
class Encoded:
    """The codes of a run, and what is said of its voxels.

    Attributes:
        codes: ``(T, V)``, int8, int16, float16 or float32.
        scale: ``(V,)`` float32.
        offset: ``(V,)`` float32.
        mean: Mean of each voxel ``(V,)``, float64, over the frames that do not lie far from the others.
        std: Population standard deviation over the same frames ``(V,)``, float64; exactly 0 where a voxel is constant.
        far: Indices of the frames that lie far from the others, such as those before the steady state.
        far_codes: Their codes in float16 ``(len(far), V)``, which go beyond the range of ``codes``.
    """

    codes: NDArray[np.generic]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    far: NDArray[np.intp]
    far_codes: NDArray[np.float16]


def encode(values: NDArray[np.float32], dtype: Stored = "int8", step: float | None = None) -> Encoded:
    """Encode a run such that every voxel correlates by more than 0.9999 with what is decoded.

    ``"int8"`` divides the range of each voxel into 254 steps. Frames that lie far from the others do not count for the
    range, and are kept a second time in float16. ``"float16"`` holds what lies around the middle of the range, not the
    values themselves: of those, whose mean is 50 to 500 times as large as their changes, it would round the changes
    away. Where a voxel would correlate less, over all frames or over those that are not far, as one with a lone spike
    may, all are encoded in the next type: int16 after int8, then float32.

    Args:
        values: Finite, ``(T, V)``.
        dtype: The type of the codes.
        step: What all values are multiples of, where they were rounded before: int8 then counts these steps, and
            loses nothing, as far as 254 of them reach.
    """
    num_frames, num_voxels = values.shape
    is_far = far_frames(values)
    # of other types the range holds far frames too
    apart = is_far if dtype == "int8" else np.zeros_like(is_far)
    codes = values if dtype == "float32" else np.empty(values.shape, dtype)
    far_codes = np.empty((int(apart.sum()), num_voxels), np.float16)
    scale, offset = np.ones(num_voxels, np.float32), np.zeros(num_voxels, np.float32)
    mean, std = np.empty(num_voxels), np.empty(num_voxels)
    width = max(1, _BLOCK // num_frames)
    for block in (slice(start, start + width) for start in range(0, num_voxels, width)):
        exact = values[:, block].astype(np.float64)
        # far frames, which are brighter by half, would make of all others next to nothing
        near = exact[~is_far] if is_far.any() else exact
        least, most = near.min(0), near.max(0)
        # of a constant voxel rounding would make another mean, and changes
        mean[block] = np.where(least == most, least, near.mean(0))
        std[block] = np.where(least == most, 0, _root_mean_square(near - mean[block]))
        if dtype == "float32":
            continue
        lowest, highest = (least, most) if apart.any() else (exact.min(0), exact.max(0))
        scale[block], offset[block] = _steps(lowest, highest, dtype, step)
        coded = exact - offset[block]
        coded /= scale[block]
        far_codes[:, block] = np.clip(coded[apart], -_LARGEST_FLOAT16, _LARGEST_FLOAT16)
        codes[:, block] = _rounded(coded, dtype)
        decoded = codes[:, block].astype(np.float32)
        decoded[apart] = far_codes[:, block]
        decoded *= scale[block]
        decoded += offset[block]
        error = decoded - exact
        if is_far.any() and not _alike(error, exact.std(0)):
            return encode(values, _NEXT[dtype])
        if not _alike(error[~is_far] if is_far.any() else error, std[block]):
            return encode(values, _NEXT[dtype])
    return Encoded(codes, scale, offset, mean, std, np.flatnonzero(apart), far_codes)


def is_absent(codes: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Find the codes of no value."""
    absent = ABSENT[codes.dtype.name]
    # NaN is not equal to itself
    return np.isnan(codes) if absent != absent else codes == absent


def far_frames(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find frames that lie at least 3 times as far from the voxels' means as the middle frame does.

    Such are frames before the steady state of the magnetisation, which fMRIPrep keeps, and those of a large movement:
    a range that held them would leave few steps for all others.
    """
    sample = values[:, :: -(-values.shape[1] // _SAMPLE)].astype(np.float64)
    far = np.zeros(len(values), bool)
    # a far frame hides others until it is left out
    for _ in range(5):
        near = sample[~far]
        std = near.std(0)
        distance = (np.abs(sample - near.mean(0)) / np.where(std > 0, std, 1)).mean(1)
        found = distance > FAR * np.median(distance)
        if (found == far).all():
            break
        far = found
    return far


def _steps(
    lowest: NDArray[np.float64], highest: NDArray[np.float64], dtype: Stored, step: float | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give the scale and the offset with which the codes of a range fill their type."""
    if step is not None and dtype == "int8":
        middle = lowest + step * np.rint((highest - lowest) / (2 * step))
        return np.full(len(lowest), step, np.float32), middle.astype(np.float32)
    offset = ((lowest + highest) / 2).astype(np.float32)
    # the offset is rounded: of large values with small changes, as far as the changes go
    reach = np.maximum(highest - offset, offset - lowest)
    scale = (reach / (np.iinfo(dtype).max if np.dtype(dtype).kind == "i" else 1)).astype(np.float32)
    # a constant voxel is its offset
    return np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1)), offset


def _rounded(coded: NDArray[np.float64], dtype: Stored) -> NDArray[np.float64]:
    if np.dtype(dtype).kind != "i":
        return coded
    most = np.iinfo(dtype).max
    np.rint(coded, out=coded)
    return np.clip(coded, -most, most, out=coded)


def _alike(error: NDArray[np.float64], std: NDArray[np.float64]) -> bool:
    # whatever the errors are, the correlation is at least the cosine of the angle whose sine is error / std
    return bool((_root_mean_square(error) <= math.sqrt(1 - LEAST_CORRELATION**2) * std).all())


def _root_mean_square(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.einsum("tv,tv->v", values, values) / len(values)))
