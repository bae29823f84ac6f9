"""From codes of in-brain voxels to values, in-brain or on the whole grid, in one pass over memory."""

import inspect
from functools import cache
from typing import Any, no_type_check

import numpy as np
from numpy.typing import NDArray


def fill_dense(
    codes: NDArray[np.generic],
    scale: NDArray[np.float32],
    offset: NDArray[np.float32],
    places: NDArray[np.int32],
    dense: NDArray[np.float32],
) -> None:
    """Decode codes ``(T, V)`` into values ``(size, T)``: voxel ``v`` into row ``places[v]``, unless that is -1."""
    # numba knows no float16
    codes = codes.astype(np.float32) if codes.dtype == np.float16 else codes
    _kernel()(codes, scale, offset, places, dense)


def background_values(shape: tuple[int, int], background: float) -> NDArray[np.float32]:
    """Make values that are all background."""
    # zeros come from the system in huge pages, which is what a clip of 70 MB costs most; full() would touch each
    return np.full(shape, background, np.float32) if background else np.zeros(shape, np.float32)


@cache
def _kernel() -> Any:
    # numba takes a second to import; it keeps what it has compiled on the disk, but not of what others have wrapped
    import numba

    return numba.njit(nogil=True, cache=True)(inspect.unwrap(_scatter))


@no_type_check
def _scatter(codes, scale, offset, places, dense):
    num_frames, num_voxels = codes.shape
    for voxel in range(num_voxels):
        if places[voxel] < 0:
            continue
        factor, shift, row = scale[voxel], offset[voxel], dense[places[voxel]]
        # in two roundings, not fused into one: the same values as by numpy and torch
        for frame in range(num_frames):
            row[frame] = np.float32(codes[frame, voxel]) * factor + shift
