"""Normalisation of the intensities of runs.

Every function takes ``(T, H, W, D)`` or ``(1, H, W, D, T)`` and gives the same layout back, float32, or float64 for a
float64 run. What it is given stays as it is; a MetaTensor gives a MetaTensor with the same meta.
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from nstorm.data.layout import as_float, over_space, time_axis, time_first
from nstorm.data.space.grid import same_grid
from nstorm.data.time.timing import name_of, with_meta

# makes the median absolute deviation of a normal distribution its standard deviation
MAD_TO_STD = 1.4826
# a voxel whose mean is smaller than this part of its deviation has no baseline
LEAST_BASELINE = 1e-3


def voxels_that_vary(bold: Tensor) -> Bool[Tensor, "h w d"]:
    """Find the voxels of a run that change over time; those that a mask has set to 0 do not.

    Args:
        bold: A run of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``.

    Raises:
        ValueError: The run has another shape.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold, voxels_that_vary
        >>> int(voxels_that_vary(load_bold(haxby_runs()[0].bold)).sum())
        530
    """
    lowest, highest = torch.aminmax(time_first(bold.as_subclass(Tensor)), dim=0)
    return lowest != highest


def voxels_inside(bold: Tensor, mask: Tensor | None) -> Bool[Tensor, "h w d"]:
    """Find the voxels of a run that a mask keeps; without a mask, those that vary.

    Args:
        bold: A run of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``.
        mask: Voxels to keep, boolean of shape ``(H, W, D)`` or ``(1, H, W, D)``.

    Raises:
        ValueError: The run has another shape; the mask has another shape or lies on another grid than the run, is not
            boolean or holds no voxel.
    """
    if mask is None:
        return voxels_that_vary(bold)
    shape = tuple(time_first(bold.as_subclass(Tensor)).shape[1:])
    inside = mask_of_shape(mask, shape, name_of(bold, "the run"))
    if not mask.any():
        raise ValueError(f"mask holds no voxel: give the mask of {name_of(bold, 'this run')}")
    if hasattr(mask, "affine") and hasattr(bold, "affine") and not same_grid(mask, bold):
        raise ValueError(
            f"mask lies on another grid than {name_of(bold, 'the run')} (affines {mask.affine.tolist()} and "
            f"{bold.affine.tolist()}): resample it to the run, and apply every spatial transform to both"
        )
    return inside.to(bold.device)


def mask_of_shape(mask: Tensor, shape: tuple[int, ...], name: str = "the run") -> Bool[Tensor, "h w d"]:
    """Give a mask as a plain tensor ``(H, W, D)``, if it is boolean and has the shape of the frames of a run.

    Raises:
        ValueError: The mask has another shape or is not boolean.
    """
    if tuple(mask.shape) not in (shape, (1, *shape)):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, but a frame of {name} has {shape}: "
            "load_mask(path, like=run) puts one on the run's grid"
        )
    if mask.dtype != torch.bool:
        raise ValueError(
            f"mask has dtype {mask.dtype}, but it has to be a boolean tensor: pass torch.as_tensor(mask > 0)"
        )
    return mask.as_subclass(Tensor).reshape(shape)


def zscore_voxels(bold: Tensor, mask: Tensor | None = None, *, robust: bool = False) -> Tensor:
    """Give every voxel zero mean and unit (population) variance over time.

    Voxels that are constant over time and voxels outside the mask become exactly 0.

    Args:
        bold: A run of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``.
        mask: Voxels to keep, boolean of shape ``(H, W, D)`` or ``(1, H, W, D)``. By default all.
        robust: Take the median for the mean and 1.4826 times the median absolute deviation for the standard
            deviation, which a few spikes do not move. Voxels that rest on one value half of the time become 0.

    Raises:
        ValueError: The run or the mask has another shape; the mask is not boolean, is empty or lies on another grid; or
            a voxel to keep is NaN or infinite in a frame.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold, zscore_voxels
        >>> bold = zscore_voxels(load_bold(haxby_runs()[0].bold))
        >>> bold.shape
        torch.Size([121, 40, 20, 1])
        >>> round(float(bold[:, 10, 10, 0].std(correction=0)), 3)
        1.0
    """
    axis = time_axis(bold)
    inside, varying = _finite_voxels(bold, mask)
    keep = inside & varying
    values = as_float(bold)
    if robust:
        result = values - _median(values, axis)
        scale = _median(result.abs(), axis) * MAD_TO_STD
    else:
        scale, mean = torch.std_mean(values, dim=axis, correction=0, keepdim=True)
        result = values - mean
    # The deviation of tiny changes can round to 0.
    keep = keep & (time_first(scale)[0] > 0)
    return with_meta(result.div_(scale).masked_fill_(~over_space(keep, bold), 0.0), bold)


def zscore_global(
    bold: Tensor, mask: Tensor | None = None, *, robust: bool = False, outside: float | str = 0.0
) -> Tensor:
    """Give all voxels of the brain and all frames together zero mean and unit variance.

    This is the normalisation of the published models (:func:`nstorm.data.prepare_published` does all of their
    preparation). It keeps the differences between voxels, which are anatomy and many times larger than the changes over
    time: a network sees more of the BOLD signal after :func:`zscore_voxels`.

    Args:
        bold: A run of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``.
        mask: The brain, boolean of shape ``(H, W, D)`` or ``(1, H, W, D)``. By default the voxels that vary.
        robust: Take the median for the mean and 1.4826 times the median absolute deviation for the standard deviation.
        outside: The value of voxels outside the brain; ``"min"`` is the lowest value inside, as published.

    Raises:
        ValueError: The run or the mask has another shape; the mask is not boolean, is empty or lies on another grid; a
            voxel of the brain is NaN or infinite in a frame, or all of them have one value; or ``outside`` is another
            word.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold, voxels_that_vary
        >>> from nstorm.data.normalize import zscore_global
        >>> bold = load_bold(haxby_runs()[0].bold)
        >>> brain = zscore_global(bold)[:, voxels_that_vary(bold)]
        >>> round(abs(float(brain.mean())), 3), round(float(brain.std()), 3)
        (0.0, 1.0)
    """
    if isinstance(outside, str) and outside != "min":
        raise ValueError(f"outside is {outside!r}, but it has to be 'min' or a number")
    inside, _ = _finite_voxels(bold, mask)
    values = as_float(bold)
    centre, scale = 0.0, 0.0
    if inside.any():
        centre, scale = _median_and_mad(values, inside) if robust else _mean_and_std(values, inside)
    if not scale > 0:
        raise ValueError(
            f"{name_of(bold)} has one value throughout the brain (if robust, nearly throughout), which cannot be "
            "normalised: give another run or mask"
        )
    result = (values - centre).div_(scale)
    if outside == "min":
        everywhere = torch.full((), torch.inf, dtype=result.dtype, device=result.device)
        outside = float(torch.where(inside, time_first(result).amin(dim=0), everywhere).min())
    return with_meta(result.masked_fill_(~over_space(inside, bold), float(outside)), bold)


def percent_signal_change(bold: Tensor, mask: Tensor | None = None, *, robust: bool = False) -> Tensor:
    """Express every voxel in percent of its own mean over time, which becomes 0.

    Voxels outside the mask, constant ones, and those without a baseline (a mean below a thousandth of the standard
    deviation, as after a step that removes the mean) become exactly 0.

    Args:
        bold: A run of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``.
        mask: Voxels to keep, boolean of shape ``(H, W, D)`` or ``(1, H, W, D)``. By default all.
        robust: Take the median over time for the mean.

    Raises:
        ValueError: The run or the mask has another shape; the mask is not boolean, is empty or lies on another grid; or
            a voxel to keep is NaN or infinite in a frame.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold
        >>> from nstorm.data.normalize import percent_signal_change
        >>> bold = percent_signal_change(load_bold(haxby_runs()[0].bold))
        >>> round(float(bold[:, 10, 10, 0].std()), 1)
        1.4
    """
    axis = time_axis(bold)
    inside, varying = _finite_voxels(bold, mask)
    keep = inside & varying
    values = as_float(bold)
    std, baseline = torch.std_mean(values, dim=axis, correction=0, keepdim=True)
    if robust:
        baseline = _median(values, axis)
    keep = keep & (time_first(baseline.abs() > LEAST_BASELINE * std)[0])
    result = (values - baseline).mul_(100).div_(baseline.abs())
    return with_meta(result.masked_fill_(~over_space(keep, bold), 0.0), bold)


def _finite_voxels(bold: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Find the voxels inside the mask, which have to be finite in all frames, and those that vary."""
    lowest, highest = torch.aminmax(time_first(bold.as_subclass(Tensor)), dim=0)
    varying = lowest != highest
    inside = varying if mask is None else voxels_inside(bold, mask)
    bad = inside & ~(lowest.isfinite() & highest.isfinite())
    if bad.any():
        raise ValueError(
            f"{name_of(bold)} has NaN or infinite values in {int(bad.sum())} voxels: leave these out with a mask, or "
            "replace the values, as nstorm.data.load_bold does with fill_nan=0"
        )
    return inside, varying


def _median(values: Tensor, axis: int) -> Tensor:
    # slab by slab for the memory
    return torch.cat([_middle(slab, axis) for slab in values.split(1, dim=1)], dim=1)


def _middle(values: Tensor, axis: int) -> Tensor:
    # torch gives the lower of the two values in the middle
    return (values.median(axis, keepdim=True).values - values.neg().median(axis, keepdim=True).values) / 2


def _mean_and_std(values: Tensor, inside: Tensor) -> tuple[float, float]:
    # slab by slab for the memory, and in two passes of double precision
    slabs = list(zip(time_first(values).unbind(1), inside, strict=True))
    count = int(inside.sum()) * len(time_first(values))
    mean = sum(float(slab[:, part].sum(dtype=torch.float64)) for slab, part in slabs) / count
    squares = sum(float((slab[:, part].double() - mean).square().sum()) for slab, part in slabs)
    return mean, (squares / max(count - 1, 1)) ** 0.5


def _median_and_mad(values: Tensor, inside: Tensor) -> tuple[float, float]:
    series = time_first(values)[:, inside].flatten()
    centre = float(_middle(series, 0))
    return centre, MAD_TO_STD * float(_middle(series.sub_(centre).abs_(), 0))
