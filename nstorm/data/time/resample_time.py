"""Another repetition time: resampling over time, and the removal of the first frames."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.files.repetition_time import LONGEST, SHORTEST
from nstorm.data.layout import time_axis, time_first
from nstorm.data.time.timing import FRAME_META, keep_frames, name_of, repetition_time_of, start_time_of, with_meta

TOLERANCE = 1e-3
LOBES = 16
ATTENUATION = 60.0
BLOCK = 64


def resample_time(bold: Tensor, tr: float) -> Tensor:
    """Resample a run to another repetition time, without aliasing.

    The value of frame ``k`` is the signal at ``start_time + k * TR``; that of the new frames follows from it by a
    sinc interpolation of 16 lobes on each side in a Kaiser window. With a longer TR the same filter removes what
    the new frames cannot hold: frequencies from the new Nyquist frequency, ``1 / (2 * tr)``, on fall by 60 dB and
    those below 3/4 of it stay. With a shorter TR those below 3/4 of the old one stay. At its two ends a run goes on
    as its reflection through the end point. Constant and straight series come out as they are.

    The new run has as many frames as fit into the time of the old one, to 1 ms: 10 frames of 2 s become 25 of 0.8 s.

    Args:
        bold: A run of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)`` with ``meta["tr"]``.
        tr: The new repetition time in seconds.

    Returns:
        The run in its layout with the new ``meta["tr"]``. Its ``start_time`` stays; its ``start_frame`` goes, for the
        new frames have no number in the file. Where the new frames would be less than 1 ms from the old ones, at the
        end of the run too, these stay as they are.

    Raises:
        ValueError: The run has no repetition time or a single frame, or is shorter than the new TR, or this lies
            outside 0.1 to 20 s.

    References:
        Crochiere and Rabiner, Multirate Digital Signal Processing, 1983 (filter design by the Kaiser window).

    Example:
        >>> from nstorm.data import haxby_runs, load_bold
        >>> from nstorm.data.time.resample_time import resample_time
        >>> bold = resample_time(load_bold(haxby_runs()[0].bold), 2.0)
        >>> bold.shape, bold.meta["tr"]
        (torch.Size([151, 40, 20, 1]), 2.0)
    """
    old_tr = repetition_time_of(bold)
    if not SHORTEST <= tr <= LONGEST:
        raise ValueError(f"tr is {tr} s, but it has to lie between {SHORTEST:g} and {LONGEST:g} s: give it in seconds")
    axis = time_axis(bold)
    num_frames = bold.shape[axis]
    dtype = torch.promote_types(bold.dtype, torch.float32)
    if num_frames * abs(tr - old_tr) < TOLERANCE:
        return with_meta(bold.as_subclass(Tensor).to(dtype), bold, tr=float(tr))
    num_new = math.floor((num_frames * old_tr + TOLERANCE) / tr)
    if num_frames < 2 or num_new < 1:
        raise ValueError(
            f"{name_of(bold)} has {num_frames} frames of {old_tr:g} s, too few to be resampled to {tr:g} s: "
            "resample the whole run, before clips are cut"
        )
    weights = torch.from_numpy(_weights(num_frames, tr / old_tr, num_new)).to(bold.device, dtype)
    bands = [
        (rows, used[0], used[-1] + 1)
        for rows in torch.arange(num_new).split(BLOCK)
        for used in [weights[rows].any(dim=0).nonzero()[:, 0].tolist()]
    ]

    plain = bold.as_subclass(Tensor)
    result = plain.new_empty([num_new if i == axis else size for i, size in enumerate(plain.shape)], dtype=dtype)
    frames, new_frames = time_first(plain), time_first(result)
    # One slab of space after another bounds the memory; the large mean is set aside, so that it costs no digits.
    for slab, new_slab in zip(frames.unbind(1), new_frames.unbind(1), strict=True):
        series = slab.flatten(1).to(dtype)
        first = series[:1]
        change = series - first
        for rows, start, stop in bands:
            block = torch.addmm(first, weights[rows, start:stop], change[start:stop])
            new_slab[rows[0] : rows[-1] + 1] = block.unflatten(1, slab.shape[1:])
    gone = dict.fromkeys(("start_frame", *FRAME_META))
    return with_meta(result, bold, tr=float(tr), start_time=start_time_of(bold), **gone)


def remove_dummy_scans(bold: Tensor, num_frames: int | None = None, *, seconds: float | None = None) -> Tensor:
    """Remove the first frames of a run, which were taken before the magnetisation was steady.

    Event times stay right: ``meta["start_time"]`` and, where it is known, ``meta["start_frame"]`` say where in the
    recording the run now begins.

    Args:
        bold: A run of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``.
        num_frames: How many frames to remove.
        seconds: How much time to remove instead; a frame that begins within it goes.

    Raises:
        ValueError: Not exactly one of the two is given, it is negative, no frame would be left, or the run has no
            repetition time and ``seconds`` is given.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold
        >>> from nstorm.data.time.resample_time import remove_dummy_scans
        >>> bold = remove_dummy_scans(load_bold(haxby_runs()[0].bold), seconds=10.0)
        >>> bold.shape, bold.meta["start_time"]
        (torch.Size([117, 40, 20, 1]), 10.0)
    """
    if num_frames is None and seconds is not None:
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds is {seconds}, but it has to be the length of a time, 0 or more")
        num_frames = math.ceil((seconds - TOLERANCE) / repetition_time_of(bold))
    elif num_frames is None or seconds is not None:
        raise ValueError(f"num_frames is {num_frames} and seconds is {seconds}: give one of the two")
    available = bold.shape[time_axis(bold)]
    if not 0 <= num_frames < available:
        raise ValueError(
            f"{num_frames} frames cannot be removed from {name_of(bold, 'a run')} of {available}: remove 0 to "
            f"{available - 1}"
        )
    return keep_frames(bold, torch.arange(available) >= num_frames)


def _weights(num_frames: int, step: float, num_new: int) -> NDArray[np.float64]:
    """Weights of the old frames in each new one, (new, old); ``step`` is the new TR in units of the old one."""
    half = LOBES * max(1.0, step)
    # Kaiser's formula for the width of the band in which the filter falls
    transition = (ATTENUATION - 7.95) / (14.36 * 2 * half)
    cutoff = 0.5 if step < 1 else 0.5 / step - transition / 2
    # of each new frame only the old ones around it, which may lie beyond the ends
    reach = math.ceil(half) + 1
    times = step * np.arange(num_new)[:, None]
    frames = np.floor(times).astype(np.intp) + np.arange(1 - reach, reach + 1)
    distances = frames - times
    window = np.i0(0.1102 * (ATTENUATION - 8.7) * np.sqrt(np.clip(1 - (distances / half) ** 2, 0, None)))
    window[np.abs(distances) > half] = 0
    weights = 2 * cutoff * np.sinc(2 * cutoff * distances) * window / window.max()

    # the least correction, in the shape of the window, for which constants and straight lines are exact
    moments = [np.sum(window * distances**power, axis=1) for power in range(3)]
    missing, slope = 1 - weights.sum(axis=1), -np.sum(weights * distances, axis=1)
    determinant = moments[0] * moments[2] - moments[1] ** 2
    level = (missing * moments[2] - slope * moments[1]) / determinant
    tilt = (slope * moments[0] - missing * moments[1]) / determinant
    weights += window * (level[:, None] + tilt[:, None] * distances)

    extended = np.zeros((num_new, num_frames + 2 * reach))
    np.put_along_axis(extended, frames + reach, weights, axis=1)
    reflected = np.pad(np.eye(num_frames), ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    before, inner, after = np.split(extended, [reach, -reach], axis=1)
    return inner + before @ reflected[:reach] + after @ reflected[-reach:]
