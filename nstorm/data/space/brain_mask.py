"""Brain masks: computed from a run, and applied to it."""

import warnings

import nibabel
import torch
from torch import Tensor

from nstorm.data.layout import over_space, time_first
from nstorm.data.normalize import voxels_inside
from nstorm.data.space.grid import grid_of
from nstorm.data.time.timing import with_meta


def brain_mask(
    bold: Tensor,
    *,
    lower_cutoff: float = 0.2,
    upper_cutoff: float = 0.85,
    opening: int = 2,
    exclude_zeros: bool = False,
) -> Tensor:
    """Find the brain in a run: :func:`nilearn.masking.compute_epi_mask` on its mean over time.

    A threshold is put where the histogram of the mean image is sparsest, and the largest connected part is kept. It
    takes raw or preprocessed BOLD, not what has lost its mean; where fMRIPrep gives a mask, that one is better.

    Args:
        bold: A MetaTensor of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``.
        lower_cutoff: Fraction of the voxels that are surely outside. Increase it where the mask is too large.
        upper_cutoff: Fraction of the voxels below which the threshold lies.
        opening: How many voxels are eroded and dilated again, to cut off what is not brain; 0 for images of few or
            large voxels.
        exclude_zeros: Whether voxels that are exactly 0 do not count for the fractions: for images that were padded
            much.

    Returns:
        A boolean MetaTensor ``(1, H, W, D)`` with the affine and the ``meta["space_code"]`` of the run.

    Raises:
        ValueError: The run has no affine or another shape, its mean image is constant or not finite, or no voxel is
            left in the mask.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.space.brain_mask import brain_mask
        >>> mask = brain_mask(load_bold(rest_run().bold))
        >>> mask.shape, mask.dtype
        (torch.Size([1, 48, 56, 48]), torch.bool)
    """
    from monai.data.meta_tensor import MetaTensor
    from nilearn.masking import compute_epi_mask

    affine = grid_of(bold).affine
    # Summed in float64: a float32 sum of a long run loses its last digits.
    mean = time_first(bold.as_subclass(Tensor)).mean(dim=0, dtype=torch.float64).cpu()
    lowest, highest = mean.min().item(), mean.max().item()
    if not lowest < highest < float("inf"):
        raise ValueError(
            f"the mean image of the run goes from {lowest:g} to {highest:g}, in which no brain can be found: "
            "give a run of finite values that differ"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Computed an empty mask")
        found = compute_epi_mask(
            nibabel.Nifti1Image(mean.numpy(), affine.numpy()),
            lower_cutoff=lower_cutoff,
            upper_cutoff=upper_cutoff,
            opening=opening,
            exclude_zeros=exclude_zeros,
        )
    mask = torch.from_numpy(found.get_fdata() > 0)
    if not mask.any():
        raise ValueError(
            f"no voxel is left in the mask after opening={opening}: pass a smaller opening for images of few or large "
            "voxels, or a mask of your own"
        )
    space = {key: value for key, value in bold.meta.items() if key == "space_code"}  # type: ignore[attr-defined]
    return MetaTensor(mask[None].to(bold.device), affine=affine.clone(), meta=space)


def apply_mask(bold: Tensor, mask: Tensor, *, value: float | str = 0.0) -> Tensor:
    """Set every voxel outside a mask to one value, in all frames.

    Args:
        bold: A run of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``.
        mask: Voxels to keep, boolean of shape ``(H, W, D)`` or ``(1, H, W, D)``.
        value: A number, or ``"min"`` for the lowest value inside the mask, which the published NeuroSTORM takes for
            the background.

    Returns:
        A run in the layout and dtype that were given; a MetaTensor keeps its meta.

    Raises:
        ValueError: The run has another shape, or the mask is empty, not boolean or on another grid.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.space.brain_mask import apply_mask, brain_mask
        >>> bold = load_bold(rest_run().bold)
        >>> mask = brain_mask(bold)
        >>> bool((apply_mask(bold, mask)[:, ~mask[0]] == 0).all())
        True
    """
    inside = voxels_inside(bold, mask)
    values = bold.as_subclass(Tensor)
    if isinstance(value, str):
        if value != "min":
            raise ValueError(f"value is {value!r}, but it has to be 'min' or a number")
        value = time_first(values)[:, inside].min().item()
    return with_meta(values.masked_fill(over_space(~inside, bold), value), bold)
