"""The preparation of the published NeuroSTORM models, step by step as it was done for them."""

import logging
import math
from typing import Any, Literal, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.layout import time_axis, time_first, with_layout
from nstorm.data.normalize import voxels_inside
from nstorm.data.space.crop_or_pad import crop_or_pad
from nstorm.data.space.grid import grid_of
from nstorm.data.space.orientation import axcodes_of, reorient
from nstorm.data.time.timing import name_of, repetition_time_of, start_time_of, with_meta

VOXEL_SIZE = 2.0
TR = 0.8
LARGEST = 96
INT8_MAX = 127
# frames that are resampled at a time
CHUNK = 16

_log = logging.getLogger("nstorm.data")


@overload
def prepare_published(
    bold: Tensor,
    *,
    mask: Tensor | None = ...,
    axcodes: str | None = ...,
    pad_to: int | None = ...,
    quantize: Literal[False] = ...,
) -> Tensor: ...


@overload
def prepare_published(
    bold: Tensor,
    *,
    mask: Tensor | None = ...,
    axcodes: str | None = ...,
    pad_to: int | None = ...,
    quantize: Literal[True],
) -> tuple[Tensor, float]: ...


def prepare_published(
    bold: Tensor,
    *,
    mask: Tensor | None = None,
    axcodes: str | None = "LAS",
    pad_to: int | None = None,
    quantize: bool = False,
) -> Tensor | tuple[Tensor, float]:
    """Prepare a run in MNI152 space as the published weights expect it.

    Voxels of 2 mm by trilinear interpolation; the middle 96 of every longer axis; frames of 0.8 s by linear
    interpolation; negative values become 0; one mean and one standard deviation over all voxels and frames that are
    not background; the background becomes the lowest value; one step size for all values, such that they fit into int8.

    What this costs: the global z-score leaves the differences between tissues, which are large, and hides the BOLD
    changes in them, and one step of int8 is then about as large as these changes (of 0.5 to 1.5 %; what is left
    correlates with the original by 0.65 to 0.97). A linear probe tells 21 tasks from frozen published features in
    17.5 % of cases; after :func:`nstorm.data.zscore_voxels` in its place in 70.5 %. Interpolation without a filter also
    folds frequencies above the new Nyquist frequency back. So prepare runs in this way for the published weights, and
    for weights of your own with :func:`nstorm.data.resample_space`, :func:`nstorm.data.resample_time` and
    :func:`nstorm.data.zscore_voxels`.

    Args:
        bold: A whole run of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)`` with its affine and ``meta["tr"]``.
        mask: The brain, boolean of shape ``(H, W, D)`` or ``(1, H, W, D)``; what it does not touch after resampling is
            background. By default the background is where the run is exactly 0: fMRIPrep's images, which are not
            masked, need a mask.
        axcodes: The directions in which voxels are numbered. The published models know left-anterior-superior: a run
            in another order, such as RAS, is flipped, and the flip is logged. None leaves the order as it is.
        pad_to: Fill up every axis to this size with background, in front one more if it is uneven. The
            published models take 96.
        quantize: Give the int8 values and their step, for storage, rather than their product.

    Returns:
        The run in its layout, float32, with affine and TR of the new grid; or, if ``quantize``, int8 and the step.

    Raises:
        ValueError: The run is a plain tensor without a TR and an affine, has another shape, no voxel that is not
            background or NaN or infinite ones, or is larger than ``pad_to``; or the mask does not fit it.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.published import prepare_published
        >>> frames, step = prepare_published(load_bold(rest_run().bold)[:4], quantize=True)
        >>> frames.shape, frames.dtype, frames.meta["tr"]
        (torch.Size([8, 96, 96, 96]), torch.int8, 0.8)
    """
    from monai.data.meta_tensor import MetaTensor

    tr = repetition_time_of(bold)
    if not isinstance(bold, MetaTensor):
        raise ValueError("bold is a plain tensor without an affine: read it with nstorm.data.load_bold")
    axis, start_time = time_axis(bold), start_time_of(bold)
    brain: Tensor | None = None if mask is None else MetaTensor(voxels_inside(bold, mask)[None], affine=bold.affine)
    turned: Tensor = bold
    if axcodes is not None and (found := axcodes_of(bold)) != axcodes:
        _log.info("%s is turned from %s to %s", name_of(bold, "the run"), found, axcodes)
        turned = reorient(bold, axcodes)
        brain = brain if brain is None else reorient(brain, axcodes)

    frames, affine = on_published_voxels(turned)
    frames = with_published_tr(frames, tr)
    background = frames == 0 if brain is None else on_published_voxels(brain)[0].expand_as(frames) == 0
    if background.all():
        raise ValueError(
            f"{name_of(bold)} has no voxel but background (exactly 0, or outside the mask): give the run or its mask"
        )
    mean, std, extent = settle(frames, background, name_of(bold))
    frames.sub_(mean).mul_(INT8_MAX / extent).round_()
    step = extent / std / INT8_MAX
    if pad_to is not None and max(frames.shape[1:]) > pad_to:
        raise ValueError(f"the run has {tuple(frames.shape[1:])} voxels of 2 mm, more than pad_to ({pad_to})")
    frames = with_layout(frames.to(torch.int8) if quantize else frames.mul_(step), bold)
    changes: dict[str, Any] = {"affine": affine, "tr": TR, "start_time": start_time}
    if frames.shape[axis] != bold.shape[axis]:
        changes["start_frame"] = None
    result = with_meta(frames, turned, **changes)
    if pad_to is not None:
        result = crop_or_pad(result, pad_to, value="min")
    return (result, step) if quantize else result


def on_published_voxels(bold: Tensor) -> tuple[Tensor, Tensor]:
    """Give voxels of 2 mm and the middle of longer axes; the sizes are rounded, so that the voxels are nearly 2 mm."""
    frames, grid = time_first(bold.as_subclass(Tensor)), grid_of(bold)
    old_size = np.array(grid.shape)
    size = np.maximum(np.round(old_size * grid.spacing / VOXEL_SIZE).astype(int), 1)
    start = np.maximum((size - LARGEST) // 2, 0)
    middle = [slice(first, first + LARGEST) for first in start]
    result = frames.new_empty(len(frames), *np.minimum(size, LARGEST).tolist(), dtype=torch.float32)
    for some, new in zip(frames.split(CHUNK), result.split(CHUNK), strict=True):
        resized = F.interpolate(some[None].float(), size=size.tolist(), mode="trilinear", align_corners=False)[0]
        new[:] = resized[:, *middle]
    step = old_size / size
    return result, _moved(grid.affine, step, (start + 0.5) * step - 0.5)


def with_published_tr(frames: Tensor, tr: float) -> Tensor:
    """Give frames ``(T, H, W, D)`` of 0.8 s, or nearly, since their number is rounded."""
    num_frames = max(round(len(frames) * tr / TR), 1)
    if num_frames == len(frames):
        return frames
    result = frames.new_empty(num_frames, *frames.shape[1:])
    for slab, new_slab in zip(frames.unbind(1), result.unbind(1), strict=True):
        series = F.interpolate(slab.flatten(1).T[None], size=num_frames, mode="linear", align_corners=False)
        new_slab[:] = series[0].T.unflatten(1, slab.shape[1:])
    return result


def settle(frames: Tensor, background: Tensor, name: str) -> tuple[float, float, float]:
    """Put, in place, 0 for negative values and the lowest of what is not background for the background.

    Returns:
        Mean and standard deviation of what is not background, and the largest distance from this mean.
    """
    frames.clamp_(min=0).masked_fill_(background, 0)
    count = background.numel() - int(background.count_nonzero())
    mean = sum(float(frame.double().sum()) for frame in frames) / count
    squares = sum(float(frame.double().square().sum()) for frame in frames)
    if not math.isfinite(squares):
        raise ValueError(
            f"{name} has NaN or infinite values: replace them, as nstorm.data.load_bold does with fill_nan=0"
        )
    std = math.sqrt(max(squares - count * mean**2, 0) / max(count - 1, 1))
    lowest = float(frames.masked_fill_(background, torch.inf).amin())
    extent = max(float(frames.masked_fill_(background, lowest).amax()) - mean, mean - lowest)
    if not std > 1e-6 * extent or not extent > 0:
        raise ValueError(f"{name} has one value in all voxels that are not background: give another run or mask")
    return mean, std, extent


def _moved(affine: Tensor, step: NDArray[np.float64], first: NDArray[np.float64]) -> Tensor:
    """Affine of voxels that lie ``step`` old voxels apart, the first of them at the index ``first``."""
    matrix = np.diag([*step, 1.0])
    matrix[:3, 3] = first
    return affine @ torch.from_numpy(matrix).to(affine)
