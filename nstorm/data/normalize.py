"""Normalisation of runs over time."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def voxels_that_vary(bold: Tensor) -> Bool[Tensor, "h w d"]:
    """Find the voxels of a run that change over time; those that a mask has set to 0 do not.

    Args:
        bold: A run of shape ``(T, H, W, D)``.

    Raises:
        ValueError: The run has another shape.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold, voxels_that_vary
        >>> int(voxels_that_vary(load_bold(haxby_runs()[0].bold)).sum())
        530
    """
    if bold.ndim != 4:
        raise ValueError(f"bold has shape {tuple(bold.shape)}, but a run has four axes (T, H, W, D)")
    lowest, highest = torch.aminmax(bold.as_subclass(Tensor), dim=0)
    return lowest != highest


def zscore_voxels(bold: Tensor, mask: Tensor | None = None) -> Float[Tensor, "t h w d"]:
    """Give every voxel zero mean and unit (population) variance over time.

    Voxels that are constant over time and voxels outside the mask become exactly 0. The input is left as it
    is; a MetaTensor gives a MetaTensor with the same meta. The result is float32, or float64 for a float64
    run.

    Args:
        bold: A run of shape ``(T, H, W, D)``.
        mask: Voxels to keep, boolean of shape ``(H, W, D)``. By default all.

    Raises:
        ValueError: The run or the mask has another shape, or the mask is not boolean.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold, zscore_voxels
        >>> bold = zscore_voxels(load_bold(haxby_runs()[0].bold))
        >>> bold.shape
        torch.Size([121, 40, 20, 1])
        >>> round(float(bold[:, 10, 10, 0].std(correction=0)), 3)
        1.0
    """
    keep = voxels_that_vary(bold)
    if mask is not None:
        if mask.shape != keep.shape:
            raise ValueError(f"mask has shape {tuple(mask.shape)}, but a frame of the run has {tuple(keep.shape)}")
        if mask.dtype != torch.bool:
            raise ValueError(f"mask has dtype {mask.dtype}, but it has to be boolean: pass mask > 0")
        keep = keep & mask.as_subclass(Tensor)
    # The sum of a few 16-bit values already leaves float16.
    bold = bold.to(torch.promote_types(bold.dtype, torch.float32))
    std, mean = torch.std_mean(bold.as_subclass(Tensor), dim=0, correction=0)
    # The deviation of tiny changes can round to 0.
    keep = keep & (std > 0)
    return (bold - mean).div_(std).masked_fill_(~keep, 0.0)
