"""Between the voxels of a volume and its patches."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def patch_grid(size: Sequence[int], patch_size: Sequence[int]) -> tuple[int, ...]:
    """Count the patches of a volume along h, w, d, t; those at the end of an axis may be cut off."""
    return tuple(-(-voxels // patch) for voxels, patch in zip(size, patch_size, strict=True))


def over_volumes(brain_mask: Bool[Tensor, "*b h w d"]) -> Bool[Tensor, "b 1 h w d 1"]:
    """A mask of space, one for all samples or one for each, as it meets volumes (B, C, H, W, D, T)."""
    return brain_mask.reshape(-1, 1, *brain_mask.shape[-3:], 1)


def spread_tokens(
    x: Shaped[Tensor, "b c gh gw gd gt"], patch_size: Sequence[int], size: Sequence[int]
) -> Shaped[Tensor, "b c h w d t"]:
    """Give every voxel the value of its patch.

    Args:
        x: a value a patch.
        patch_size: voxels along h, w, d and frames along t of a patch; those at the end of an axis may be cut off.
        size: (H, W, D, T) of the volume.

    Example:
        >>> import torch
        >>> from nstorm.losses.patches import spread_tokens
        >>> hidden = torch.tensor([True, False, True]).view(1, 1, 3, 1, 1, 1)
        >>> spread_tokens(hidden, (2, 1, 1, 1), (5, 1, 1, 1)).flatten()
        tensor([ True,  True, False, False,  True])
    """
    for axis, (times, voxels) in enumerate(zip(patch_size, size, strict=True), 2):
        x = x.repeat_interleave(times, axis).narrow(axis, 0, voxels)
    return x


def patch_sums(x: Float[Tensor, "b c h w d t"], patch_size: Sequence[int]) -> Float[Tensor, "b c gh gw gd gt"]:
    """Sum over the voxels of each patch; those at the end of an axis may be cut off."""
    missing = [-voxels % times for voxels, times in zip(x.shape[2:], patch_size, strict=True)]
    x = F.pad(x, [n for m in reversed(missing) for n in (0, m)])
    for axis, times in enumerate(patch_size, 2):
        x = x.unflatten(axis, (-1, times)).sum(axis + 1)
    return x
