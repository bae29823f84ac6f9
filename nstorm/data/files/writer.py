"""Runs and masks as NIfTI files, with everything that reading them again needs."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nibabel.nifti1 import Nifti1Image
from nibabel.nifti2 import Nifti2Image
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.files.atomic import written_whole
from nstorm.data.files.repetition_time import LONGEST, SHORTEST, TOLERANCE
from nstorm.data.files.sidecar import inherited_value, write_value
from nstorm.data.layout import time_first
from nstorm.data.time.timing import refuse_uneven

if TYPE_CHECKING:
    import monai.data.meta_tensor

# the most voxels along an axis whose number NIfTI-1 can hold
_NIFTI1_LONGEST = 32767
# what NIfTI has no type for
_STORED_AS = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.bool: torch.uint8}
# NIfTI's code of a space that is only known to be some other image's
_ALIGNED = 2


def save_bold(
    path: str | PathLike[str],
    bold: Tensor,
    *,
    like: Tensor | None = None,
    dtype: torch.dtype | None = None,
    sidecar: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a run or a clip as a 4D NIfTI image with its affine and its repetition time in seconds.

    The file is written under another name and then given its own, so that it is whole or not there.
    :func:`nstorm.data.load_bold` reads the same values, affine (in float32) and repetition time. NIfTI has no place
    for the first frame of a clip within its run: the clip becomes a run that starts at 0.

    Args:
        path: The file, ``.nii`` or ``.nii.gz``; its folder is made. An image longer than 32767 along an axis becomes
            NIfTI-2.
        bold: A run ``(T, H, W, D)`` or ``(1, H, W, D, T)``.
        like: Where affine and repetition time come from, if ``bold`` lacks them, as the output of a network does: a
            run or a clip of the same grid.
        dtype: The type to store. By default that of ``bold``. Half precision is stored as float32, booleans as uint8.
            Whole numbers that fit an integer type are stored as they are, others with a slope and intercept, which
            rounds them.
        sidecar: Whether to write the repetition time also to a BIDS sidecar beside the image, or into the one that
            is there.
        overwrite: Whether to replace a file that is there.

    Returns:
        The path.

    Raises:
        FileExistsError: There is such a file, and it is not to be overwritten.
        ValueError: ``bold`` has neither layout, lacks affine or repetition time or has one outside 0.1 to 20 s, has
            lost frames in its middle, has another grid than ``like``, or holds numbers that the type cannot; the ending
            is another; or a sidecar above gives another repetition time, which would contradict the file.

    Example:
        >>> import tempfile
        >>> from nstorm.data import haxby_runs, load_bold
        >>> from nstorm.data.files.writer import save_bold
        >>> bold = load_bold(haxby_runs()[0].bold)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = load_bold(save_bold(f"{folder}/bold.nii.gz", bold))
        >>> bool((again == bold).all()), again.meta["tr"]
        (True, 2.5)
    """
    path = _nifti_path(path)
    run = time_first(bold)
    source = _with_space(bold if like is None else like, "bold")
    refuse_uneven(bold)
    refuse_uneven(source)
    if "tr" not in source.meta:
        raise ValueError(
            "bold has no repetition time: give it meta['tr'] in seconds, or pass like= with the run (save_mask writes "
            "masks)"
        )
    if like is not None and time_first(like).shape[1:] != run.shape[1:]:
        raise ValueError(
            f"bold has frames of {tuple(run.shape[1:])} voxels, but like {tuple(time_first(like).shape[1:])}: "
            "pass a run on the same grid"
        )
    tr = float(source.meta["tr"])
    if not SHORTEST <= tr <= LONGEST:
        raise ValueError(
            f"meta['tr'] of bold is {tr:g} s, which is outside {SHORTEST:g} to {LONGEST:g} s: give it in seconds"
        )
    if not sidecar:
        _refuse_contradiction(path, tr)

    image = _image(np.moveaxis(_array(run), 0, 3), source, _stored_type(run, dtype))
    image.header.set_zooms((*image.header.get_zooms()[:3], tr))
    image.header.set_xyzt_units("mm", "sec")
    _write(path, image, overwrite)
    if sidecar:
        write_value(path, "RepetitionTime", tr)
    return path


def save_mask(path: str | PathLike[str], mask: Tensor, *, overwrite: bool = False) -> Path:
    """Write a mask as a 3D NIfTI image of 0 and 1, which :func:`nstorm.data.load_mask` reads.

    Args:
        path: The file, ``.nii`` or ``.nii.gz``; its folder is made.
        mask: A boolean MetaTensor ``(1, H, W, D)``.
        overwrite: Whether to replace a file that is there.

    Returns:
        The path.

    Raises:
        FileExistsError: There is such a file, and it is not to be overwritten.
        ValueError: The mask is not boolean, has another shape or no affine; or the ending is another.

    Example:
        >>> import tempfile
        >>> from nstorm.data import rest_run
        >>> from nstorm.data.files.masks import load_mask
        >>> from nstorm.data.files.writer import save_mask
        >>> mask = load_mask(rest_run().mask)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = load_mask(save_mask(f"{folder}/mask.nii.gz", mask))
        >>> bool((again == mask).all())
        True
    """
    path = _nifti_path(path)
    if mask.dtype != torch.bool or mask.ndim != 4 or len(mask) != 1:
        raise ValueError(f"mask is {mask.dtype} of shape {tuple(mask.shape)}, but a mask is boolean, (1, H, W, D)")
    image = _image(_array(mask[0]), _with_space(mask, "mask"), np.dtype(np.uint8))
    image.header.set_xyzt_units("mm")
    _write(path, image, overwrite)
    return path


def _nifti_path(path: str | PathLike[str]) -> Path:
    if not str(path).endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path} does not end in .nii or .nii.gz: nstorm writes NIfTI in one file")
    return Path(path)


def _with_space(image: Tensor, name: str) -> "monai.data.meta_tensor.MetaTensor":
    from monai.data.meta_tensor import MetaTensor

    if not isinstance(image, MetaTensor):
        remedy = "pass like= with the run it belongs to" if name == "bold" else "load_mask gives one that has"
        raise ValueError(f"{name} is a plain tensor without an affine: {remedy}, or make it a MetaTensor")
    return image


def _refuse_contradiction(path: Path, tr: float) -> None:
    inherited = inherited_value(path, "RepetitionTime")
    if inherited is not None and not (isinstance(inherited[1], int | float) and abs(inherited[1] - tr) <= TOLERANCE):
        raise ValueError(
            f"{inherited[0]} gives {path} the repetition time {inherited[1]!r}, but the run has {tr:g} s: pass "
            "sidecar=True to write one for the image, or save it in another folder"
        )


def _array(image: Tensor) -> NDArray[Any]:
    plain = image.detach().as_subclass(Tensor).cpu()
    return (plain.float() if plain.dtype in (torch.float16, torch.bfloat16) else plain).numpy()


def _stored_type(run: Tensor, dtype: torch.dtype | None) -> "np.dtype[Any]":
    wanted = run.dtype if dtype is None else dtype
    if run.is_complex() or wanted.is_complex:
        raise ValueError(
            f"bold is {run.dtype}, to be stored as {wanted}, but a voxel has to be one real number: save the magnitude"
        )
    return torch.empty(0, dtype=_STORED_AS.get(wanted, wanted)).numpy().dtype


def _image(voxels: NDArray[Any], source: "monai.data.meta_tensor.MetaTensor", dtype: "np.dtype[Any]") -> Nifti1Image:
    if voxels.dtype.kind == "f":
        largest = max(-voxels.min(), voxels.max())
        if dtype.kind in "iu" and not np.isfinite(largest):
            raise ValueError(
                f"the image has NaN or infinite values, which {dtype} cannot hold: save it as torch.float32"
            )
        # also of what the slope of an integer type, which is a float32, can make
        if dtype != np.float64 and np.finfo(np.float32).max < largest < np.inf:
            raise ValueError(f"the image has values up to {largest:g}, beyond {dtype}: save it as torch.float64")
    affine = source.affine.numpy()
    kind = Nifti2Image if max(voxels.shape) > _NIFTI1_LONGEST else Nifti1Image
    image = kind(voxels.astype(np.uint8) if voxels.dtype == bool else voxels, affine, dtype=dtype)
    if dtype.kind in "iu" and _are_whole(voxels, dtype):
        image.header.set_slope_inter(1, 0)
    code = int(source.meta.get("space_code", _ALIGNED))
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        # A qform has no shears: readers that prefer it would misplace the voxels.
        image.set_qform(None)
    return image


def _are_whole(voxels: NDArray[Any], dtype: "np.dtype[Any]") -> bool:
    limits = np.iinfo(dtype)
    return bool(limits.min <= voxels.min() and voxels.max() <= limits.max and (voxels == np.rint(voxels)).all())


def _write(path: Path, image: Nifti1Image, overwrite: bool) -> None:
    with written_whole(path, overwrite=overwrite) as temporary:
        image.to_filename(temporary)
