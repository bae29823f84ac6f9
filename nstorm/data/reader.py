"""BOLD runs from NIfTI files, with the repetition time and the affine that the files give."""

import gzip
import zlib
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from nstorm.data.repetition_time import repetition_time

if TYPE_CHECKING:
    import monai.data.meta_tensor

_DAMAGE = (ImageFileError, OSError, EOFError, ValueError, zlib.error)


def load_bold(path: str | PathLike[str], *, tr: float | None = None) -> "monai.data.meta_tensor.MetaTensor":
    """Read a 4D BOLD image with time as the first axis.

    The result is float32 of shape ``(T, H, W, D)`` with the file's scaling (``scl_slope``, ``scl_inter``)
    applied; voxels are neither reordered nor resampled. MONAI's spatial transforms take this layout and
    treat all frames alike. MONAI's own reader is not used: it overwrites the repetition time.

    Args:
        path: A NIfTI-1 or NIfTI-2 file.
        tr: The repetition time in seconds; it overrides the files. By default it comes from the BIDS sidecar
            (``RepetitionTime``, inherited from the image's folder or one above) or from the header. Where
            both give it they have to agree to 1 ms.

    Returns:
        A MetaTensor with ``affine`` (voxel indices to mm, 4x4 float64), ``meta["tr"]`` in seconds and
        ``meta["filename_or_obj"]``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or no 4D NIfTI image, holds NaN or infinite voxels, or its repetition
            time is missing, implausible or contradictory.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold
        >>> bold = load_bold(haxby_runs()[0].bold)
        >>> bold.shape
        torch.Size([121, 40, 20, 1])
        >>> bold.meta["tr"]
        2.5
    """
    from monai.data.meta_tensor import MetaTensor

    path = Path(path)
    try:
        image = nibabel.load(path, mmap=False)
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    if not isinstance(image, Nifti1Image):
        raise ValueError(f"{path} is a {type(image).__name__}, not a NIfTI image in one file: export it as .nii.gz")
    if len(image.shape) != 4 or 0 in image.shape:
        raise ValueError(f"{path} has shape {image.shape}, but a BOLD run has four axes (H, W, D, T), none of them 0")
    seconds = repetition_time(path, image.header, tr=tr)

    try:
        voxels = _voxels(path, image)
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    # NaN and infinity show in the extremes, which cost no array of flags as large as the run.
    if not np.isfinite([voxels.min(), voxels.max()]).all():
        bad = ~np.isfinite(voxels)
        raise ValueError(
            f"{path} has NaN or infinite values in {bad.any(axis=3).sum()} voxels and "
            f"{bad.any(axis=(0, 1, 2)).sum()} of its {image.shape[3]} frames: "
            "replace them (with 0 outside the brain) and save the image again"
        )
    return MetaTensor(
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(voxels, 3, 0))),
        affine=torch.from_numpy(image.affine.astype(np.float64)),
        meta={"tr": seconds, "filename_or_obj": str(path)},
    )


def _voxels(path: Path, image: Nifti1Image) -> NDArray[np.float32]:
    if path.suffix != ".gz":
        return image.get_fdata(dtype=np.float32, caching="unchanged")
    with gzip.open(path) as stream:
        voxels = type(image).from_stream(stream).get_fdata(dtype=np.float32, caching="unchanged")
        # Left alone, nibabel stops before the checksum at the end and damage in the middle goes unseen.
        stream.read()
    return voxels


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())
    return ValueError(f"{path} is damaged or no NIfTI image ({reason}): copy or export it again")
