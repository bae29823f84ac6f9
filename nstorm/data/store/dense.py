"""From codes of in-brain voxels to values, in-brain or on the whole grid, in one pass over memory."""

from functools import cache
from typing import Any, no_type_check

import numpy as np
from numpy.typing import NDArray


def dense_values(
    codes: NDArray[np.generic],
    scale: NDArray[np.float32],
    offset: NDArray[np.float32],
    places: NDArray[np.int32],
    size: int,
    background: float = 0.0,
) -> NDArray[np.float32]:
    """Decode codes ``(T, V)`` to values ``(size, T)``: voxel ``v`` in row ``places[v]``, others are background."""
    # zeros come from the system in huge pages, which is what a clip of 70 MB costs most; full() would touch each
    shape = (size, len(codes))
    dense = np.full(shape, background, np.float32) if background else np.zeros(shape, np.float32)
    # numba knows no float16
    codes = codes.astype(np.float32) if codes.dtype == np.float16 else codes
    _kernel()(codes, scale, offset, places, dense)
    return dense


@cache
def _kernel() -> Any:
    # numba takes a second to import, and keeps what it has compiled on the disk
    import numba

    return numba.njit(nogil=True, cache=True)(_scatter)


@no_type_check
def _scatter(codes, scale, offset, places, dense):
    num_frames, num_voxels = codes.shape
    for voxel in range(num_voxels):
        factor, shift, row = scale[voxel], offset[voxel], dense[places[voxel]]
        # in two roundings, not fused into one: the same values as by numpy and torch
        for frame in range(num_frames):
            row[frame] = np.float32(codes[frame, voxel]) * factor + shift
