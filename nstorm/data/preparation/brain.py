"""The voxels of a run that are kept."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nstorm.data.files.masks import load_mask
from nstorm.data.files.reader import BOLDFile
from nstorm.data.preparation.in_space import in_space
from nstorm.data.preparation.recipe import Recipe
from nstorm.data.space.brain_mask import brain_mask
from nstorm.data.space.orientation import reorient

if TYPE_CHECKING:
    import monai.data.meta_tensor


def brain_of(
    mask: str,
    file: BOLDFile,
    recipe: Recipe,
    frames: Callable[[], Iterable["monai.data.meta_tensor.MetaTensor"]],
) -> tuple["monai.data.meta_tensor.MetaTensor", str]:
    """Find the voxels of a run that are kept, on the voxels of a recipe.

    Without a mask these are the brain as :func:`nstorm.data.brain_mask` finds it in the mean of all frames, or if the
    recipe is the published one all voxels that are not always 0. All frames are then read one more time.

    Args:
        mask: A file, on any grid; ``""`` if there is none.
        file: The run.
        recipe: What is done with it.
        frames: Gives the run block by block.

    Returns:
        The mask, boolean ``(1, H, W, D)``, and where it is from: ``"file"``, ``"computed"`` or ``"not zero"``.

    Raises:
        ValueError: The mask is not to be used, or none can be found.
    """
    if mask:
        found, origin = load_mask(mask, like=file), "file"
    elif recipe.published:
        found, origin = _not_zero(frames()), "not zero"
    else:
        found, origin = _computed(frames(), file), "computed"
    inside = in_space(found, recipe)
    if not inside.any():
        raise ValueError(
            f"{mask or file.path} has no voxel of the brain on the voxels of the recipe: give another mask"
        )
    return inside, origin


def _computed(frames: Iterable[Tensor], file: BOLDFile) -> "monai.data.meta_tensor.MetaTensor":
    from monai.data.meta_tensor import MetaTensor

    total = torch.zeros(file.shape[:3], dtype=torch.float64)
    for block in frames:
        total += block.as_subclass(Tensor).sum(0, dtype=torch.float64)
    # turned, so that the same voxels are found in whatever order they are stored
    mean = reorient(MetaTensor(total[None] / file.num_frames, affine=file.affine.clone()), "RAS")
    # what is thinner than twice the opening and one voxel would be lost, as a single slice
    opening = min(2, (min(file.shape[:3]) - 1) // 4)
    try:
        return brain_mask(mean, opening=opening)  # type: ignore[return-value]
    except ValueError as error:
        raise ValueError(
            f"{file.path} has no mask, and none can be found in its mean image ({error}): give the run's item a mask"
        ) from error


def _not_zero(frames: Iterable["monai.data.meta_tensor.MetaTensor"]) -> "monai.data.meta_tensor.MetaTensor":
    from monai.data.meta_tensor import MetaTensor

    found = None
    for block in frames:
        touched = (block.as_subclass(Tensor) != 0).any(0)
        found = touched if found is None else found | touched
        affine = block.affine
    assert found is not None
    return MetaTensor(found[None], affine=affine)
