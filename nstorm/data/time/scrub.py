"""Frames spoilt by motion: how to find them, and what to put in their place."""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.layout import time_first
from nstorm.data.normalize import voxels_inside
from nstorm.data.time.timing import checked_frames, keep_frames, refuse_uneven, with_meta


def framewise_displacement(motion: Tensor | NDArray[Any], *, radius: float = 50.0) -> Float[Tensor, " t"]:
    """Measure how far the head moved from each frame to the next, in mm.

    The sum of the absolute changes of the three translations and of the three rotations, these as the arc on a sphere
    of the size of a head. The first frame has 0.

    Args:
        motion: Shape ``(T, 6)``: three translations in mm, then three rotations in radians, as fMRIPrep
            (``trans_x`` ... ``rot_z``) and SPM (``rp_*.txt``) have them. FSL's ``.par`` has the rotations first:
            ``motion[:, [3, 4, 5, 0, 1, 2]]``. HCP's ``Movement_Regressors.txt`` has them in degrees, and then six
            derivatives: ``np.hstack([motion[:, :3], np.deg2rad(motion[:, 3:6])])``.
        radius: Of the sphere, in mm.

    Raises:
        ValueError: The motion has another shape, or is not finite.

    References:
        Power et al. 2012, doi:10.1016/j.neuroimage.2011.10.018.

    Example:
        >>> import torch
        >>> from nstorm.data.time.scrub import framewise_displacement
        >>> motion = torch.zeros(3, 6)
        >>> motion[1, 0], motion[2, 0], motion[2, 5] = 0.2, 0.2, 0.01
        >>> framewise_displacement(motion)
        tensor([0.0000, 0.2000, 0.5000])
    """
    motion = torch.as_tensor(motion)
    motion = motion.as_subclass(Tensor).to(torch.promote_types(motion.dtype, torch.float32))
    if motion.ndim != 2 or motion.shape[1] != 6 or not motion.isfinite().all():
        raise ValueError(
            f"motion has shape {tuple(motion.shape)}, but it has to be (T, 6), three translations in mm and three "
            "rotations in radians for every frame, all finite"
        )
    arcs = motion * motion.new_tensor([1.0, 1.0, 1.0, radius, radius, radius])
    moved = arcs.diff(dim=0).abs().sum(dim=1)
    return torch.cat([moved.new_zeros(1), moved])


def dvars(bold: Tensor, mask: Tensor | None = None) -> Float[Tensor, " t"]:
    """Measure how much the image changes from each frame to the next: the root mean square over voxels.

    In the units of the run; after :func:`nstorm.data.percent_signal_change`, in percent. The first frame has 0.

    Args:
        bold: A run of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``.
        mask: The brain, boolean of shape ``(H, W, D)`` or ``(1, H, W, D)``. By default the voxels that vary.

    Raises:
        ValueError: The run or the mask has another shape, or the mask is not boolean, is empty or lies on another grid.

    References:
        Power et al. 2012, doi:10.1016/j.neuroimage.2011.10.018.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold
        >>> from nstorm.data.normalize import percent_signal_change
        >>> from nstorm.data.time.scrub import dvars
        >>> change = dvars(percent_signal_change(load_bold(haxby_runs()[0].bold)))
        >>> change.shape, round(float(change[1:].median()), 1)
        (torch.Size([121]), 1.7)
    """
    inside = voxels_inside(bold, mask)
    frames = time_first(bold.as_subclass(Tensor))
    squares = torch.zeros(len(frames), dtype=torch.float64, device=bold.device)
    for slab, part in zip(frames.unbind(1), inside, strict=True):
        squares[1:] += slab[:, part].double().diff(dim=0).square().sum(dim=1)
    return (squares / inside.sum().clamp(min=1)).sqrt().to(torch.promote_types(bold.dtype, torch.float32))


def scrub(bold: Tensor, keep: Tensor, *, mode: Literal["interpolate", "drop"] = "interpolate") -> Tensor:
    """Replace or drop the frames that are not to be trusted.

    Args:
        bold: A run of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``.
        keep: The frames to trust, boolean of shape ``(T,)``, such as ``framewise_displacement(motion) < 0.5``.
        mode: ``"interpolate"`` draws a cubic spline through the kept frames of every voxel; frames before the first or
            after the last of these become equal to it. The run keeps its length and TR. ``"drop"`` takes the frames
            out. Unless they are the first or last ones, the rest is no longer evenly spaced: ``meta["frame_times"]``
            then holds the seconds of every frame in place of ``meta["tr"]``, and steps that need a TR refuse the run.

    Raises:
        ValueError: ``keep`` has another shape or type or keeps too few frames, or the mode is unknown.

    Example:
        >>> import torch
        >>> from nstorm.data import haxby_runs, load_bold
        >>> from nstorm.data.time.scrub import scrub
        >>> keep = torch.ones(121, dtype=torch.bool)
        >>> keep[50:52] = False
        >>> bold = load_bold(haxby_runs()[0].bold)
        >>> scrub(bold, keep).shape, scrub(bold, keep, mode="drop").shape
        (torch.Size([121, 40, 20, 1]), torch.Size([119, 40, 20, 1]))
    """
    keep = checked_frames(keep, bold)
    if mode == "drop":
        return keep_frames(bold, keep)
    if mode != "interpolate":
        raise ValueError(f"mode is {mode!r}, but it has to be 'interpolate' or 'drop'")
    refuse_uneven(bold)
    dtype = torch.promote_types(bold.dtype, torch.float32)
    plain = bold.as_subclass(Tensor)
    result = plain.to(dtype, copy=True)
    weights = spline_weights(keep).to(plain.device, dtype)
    for slab, new_slab in zip(time_first(plain).unbind(1), time_first(result).unbind(1), strict=True):
        new_slab[~keep] = torch.tensordot(weights, slab[keep].to(dtype), dims=1)
    return with_meta(result, bold)


def spline_weights(keep: Tensor) -> Float[Tensor, "bad kept"]:
    """Weights of the kept frames in the others, for a cubic spline that is constant beyond its ends.

    Raises:
        ValueError: Fewer than two frames are kept.
    """
    from scipy.interpolate import CubicSpline

    frames = np.arange(len(keep))
    kept = frames[keep.numpy()]
    if len(kept) < 2:
        raise ValueError(f"keep leaves 1 of {len(keep)} frames, too few to interpolate: loosen the threshold")
    spline = CubicSpline(kept, np.eye(len(kept)))
    return torch.from_numpy(spline(np.clip(frames[~keep.numpy()], kept[0], kept[-1])))
