"""What a recipe does in space, to frames and masks alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nstorm.data.clips.items import text_of
from nstorm.data.files.nifti import open_nifti
from nstorm.data.preparation.recipe import Recipe
from nstorm.data.preparation.sources import file_of
from nstorm.data.published import on_published_voxels
from nstorm.data.space.grid import Grid, grid_of, mni152_grid
from nstorm.data.space.orientation import axcodes_of, reorient
from nstorm.data.space.resample_space import resample_space

if TYPE_CHECKING:
    import monai.data.meta_tensor

# what BIDS, fMRIPrep and others call the space of one person or scanner
_NATIVE = {"t1w", "t2w", "func", "bold", "boldref", "anat", "native", "orig", "scanner", "individual", "fsnative"}
# NIfTI's code of it
_SCANNER = 1


def in_space(image: "monai.data.meta_tensor.MetaTensor", recipe: Recipe) -> "monai.data.meta_tensor.MetaTensor":
    """Turn frames ``(T, H, W, D)``, or a boolean mask ``(1, H, W, D)``, and put them on the voxels of a recipe."""
    from monai.data.meta_tensor import MetaTensor

    turned: Any = image if axcodes_of(image) == recipe.axcodes else reorient(image, recipe.axcodes)
    if recipe.published:
        values, affine = on_published_voxels(turned)
        # a voxel that the mask touches is in it
        return MetaTensor(values != 0 if image.dtype == torch.bool else values, affine=affine)
    if recipe.spacing is None:
        return turned
    grid = _target(grid_of(turned), recipe)
    if grid == grid_of(turned):
        # voxels within 0.001 mm of the grid's are the grid's
        return MetaTensor(turned.as_tensor(), affine=grid.affine.clone())
    return resample_space(turned, grid)  # type: ignore[return-value]


def _target(grid: Grid, recipe: Recipe) -> Grid:
    from monai.data.meta_tensor import MetaTensor

    assert recipe.spacing is not None
    if recipe.grid == "own":
        return grid.with_spacing(recipe.spacing)
    common = mni152_grid(recipe.spacing)
    everywhere = MetaTensor(torch.empty(1, 1, 1, 1).expand(1, *common.shape), affine=common.affine)
    return grid_of(reorient(everywhere, recipe.axcodes))


def fault_of_space(item: Mapping[str, Any], recipe: Recipe) -> str:
    """Say what is wrong with a run that is not in MNI152 space where the recipe wants it there, ``""`` if nothing is.

    Its label ``space`` counts and, only where it has none, its header.

    Raises:
        OSError: The header cannot be read.
        ValueError: The image is damaged.
    """
    if recipe.grid != "mni152" and not recipe.published:
        return ""
    space, image = text_of(item.get("space")), file_of(item, "image")
    if space.lower() not in _NATIVE and (space or open_nifti(Path(image)).space_code != _SCANNER):
        return ""
    said = f"its label space is {space!r}" if space else "sform_code of its header is 1, and it has no label space"
    return (
        f"{image} is in the space of one person or scanner ({said}), but the recipe takes runs in MNI152 space: give "
        "those (fMRIPrep's space-MNI152NLin2009cAsym); or, if it is in MNI152 space, say so with the label "
        "space=MNI152 (a column 'space' of a manifest, or space-MNI152 in the name); or prepare with 'native'"
    )
