"""NIfTI files, opened by their header alone and read volume by volume."""

import gzip
import logging
import math
import time
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Header, Nifti1Pair
from nibabel.openers import Opener
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

_DAMAGE = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error)
_COMPRESSED = (".gz", ".bz2", ".zst")
# A byte of deflate, which is what gzip packs with, stands for 1032 at most.
_MOST_UNPACKED = 1032
# NIfTI keeps the unit of space in bits 0 to 2 of xyzt_units: 1 metres, 2 millimetres, 3 micrometres.
_SPACE_UNIT_BITS = 0b000111
_OTHER_UNITS = {1: "metres", 3: "micrometres"}
_VOLUME = (
    "give the run's volume image, which fMRIPrep names *_space-*_desc-preproc_bold.nii.gz "
    "and HCP's pipelines name like the run"
)
_ADVICE = {
    "Cifti2Image": f"CIFTI keeps a list of grayordinates and no volume: {_VOLUME}",
    "GiftiImage": f"GIFTI keeps a surface and no volume: {_VOLUME}",
    "AFNIImage": "convert it with 3dAFNItoNIFTI",
    "MGHImage": "convert it with mri_convert",
}

_log = logging.getLogger("nstorm.data")
_slowness_was_told = False
# Seconds of unpacking that are worth a word.
_SLOW = 0.1


@dataclass(frozen=True, eq=False, slots=True)
class NiftiFile:
    """A NIfTI image on disk.

    Attributes:
        path: The file that was named.
        header: Its header.
        shape: Number of voxels along each axis.
        affine: From voxel indices to mm, 4x4.
        space_code: NIfTI's code of the space the affine leads to: 1 scanner, 2 another image, 3 Talairach, 4 MNI.
        dtype: The type of the stored numbers, with their byte order.
        slope: A voxel's value is its stored number times ``slope`` plus ``inter``.
        inter: See ``slope``.
        voxels: The file that holds the voxels, another one only in a pair of ``.hdr`` and ``.img``.
        offset: Where in that file, unpacked, the first voxel begins, in bytes.
        compressed: Whether that file has to be unpacked from its beginning.
    """

    path: Path
    header: Nifti1Header
    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    space_code: int
    dtype: np.dtype[Any]
    slope: float
    inter: float
    voxels: Path
    offset: int
    compressed: bool

    def volumes(self, start: int, stop: int) -> Iterator[NDArray[Any]]:
        """Read the volumes from ``start`` to before ``stop``, scaled, each into the memory of the one before.

        Only their bytes are read, or unpacked and those before them. Where the last volume of a gzip file is among
        them, so is its checksum, which proves the whole.

        Raises:
            ValueError: The file is damaged.
        """
        volume = np.empty(self.shape[:3], self.dtype, order="F")
        memory = volume.reshape(-1, order="F").view(np.uint8)
        last = start < stop == int(np.prod(self.shape[3:]))
        try:
            with _opened(self.voxels) as stream:
                began = time.perf_counter()
                stream.seek(self.offset + start * volume.nbytes)
                if self.compressed and start > 0:
                    _tell_slowness(self.path, start, time.perf_counter() - began)
                for _ in range(start, stop):
                    if stream.readinto(memory) < volume.nbytes:
                        raise EOFError("it ends within its voxels")
                    yield apply_read_scaling(volume, self.slope, self.inter)
                if self.compressed and last:
                    stream.read()
        except FileNotFoundError:
            raise
        except _DAMAGE as error:
            raise unreadable(self.path, error) from error


def open_nifti(path: Path) -> NiftiFile:
    """Open a NIfTI-1 or NIfTI-2 image without reading its voxels.

    Raises:
        FileNotFoundError: There is no such file, or only a link to it.
        ValueError: The file is damaged, of another format, holds no real numbers, or does not say where its voxels lie,
            contradicts itself about left and right, or has its affine in another unit than mm.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the NIfTI file in it; dcm2niix makes one from a folder of DICOM")
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path} is a link to a file that is not there: fetch it, as with datalad get {path}")
    try:
        image = nibabel.load(path, mmap=False)
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise unreadable(path, error) from error
    if not isinstance(image, Nifti1Pair):
        name = type(image).__name__
        raise ValueError(f"{path} is a {name}, not a NIfTI image: {_ADVICE.get(name, 'export it as .nii.gz')}")

    stored: Any = image.dataobj
    if stored.dtype.kind not in "iuf":
        raise ValueError(
            f"{path} holds {image.header['datatype'].item()} (NIfTI's code of its data type), {stored.dtype}, but a "
            "voxel has to be one real number: take the magnitude of complex data, or one channel of a colour image"
        )
    codes = int(image.header["sform_code"]), int(image.header["qform_code"])
    if not any(codes):
        raise ValueError(
            f"{path} does not say where its voxels lie (sform_code and qform_code of its header are 0), so left and "
            "right are unknown: set its affine (nibabel's image.set_sform(affine, code=1)) and save it again"
        )
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise ValueError(
            f"{path} has the affine {affine.round(4).tolist()}, which gives its voxels no volume: correct its sform or "
            "qform and save it again"
        )
    if all(codes) and (image.header["pixdim"][0] < 0) != (np.linalg.det(affine[:3, :3]) < 0):
        raise ValueError(
            f"{path} has a qform that is a mirror image of its sform, so left and right are unknown: find out which is "
            "true, set both to it (nibabel's image.set_sform and image.set_qform) and save it again"
        )
    if (unit := _OTHER_UNITS.get(int(image.header["xyzt_units"]) & _SPACE_UNIT_BITS)) is not None:
        raise ValueError(
            f"{path} gives its affine in {unit} (xyzt_units is {int(image.header['xyzt_units'])}), with voxels of "
            f"{' x '.join(f'{size:g}' for size in np.linalg.norm(affine[:3, :3], axis=0))}, but nstorm takes mm: "
            "convert the affine, or set the unit if it is mm already (image.header.set_xyzt_units), and save it again"
        )
    voxels = Path(str(image.file_map["image"].filename))
    compressed = voxels.suffix.lower() in _COMPRESSED
    expected = stored.offset + stored.dtype.itemsize * math.prod(image.shape)
    size = voxels.stat().st_size
    if not compressed and size < expected:
        raise unreadable(path, EOFError(f"it has {size} bytes of {expected}"))
    if voxels.suffix.lower() == ".gz" and size * _MOST_UNPACKED < expected:
        raise unreadable(path, EOFError(f"its {size} bytes cannot unpack to the {expected} that its header announces"))
    return NiftiFile(
        path=path,
        header=image.header,
        shape=tuple(map(int, image.shape)),
        affine=affine,
        space_code=codes[0] or codes[1],
        dtype=stored.dtype,
        slope=float(stored.slope),
        inter=float(stored.inter),
        voxels=voxels,
        offset=int(stored.offset),
        compressed=compressed,
    )


def unreadable(path: Path, error: Exception) -> ValueError:
    """Say that a file is damaged, and how that showed."""
    reason = " ".join(str(error).split())
    return ValueError(f"{path} is damaged or no NIfTI image ({reason}): copy or export it again")


def _opened(path: Path) -> AbstractContextManager[Any]:
    # Where indexed_gzip is installed, nibabel prefers it, and then a file that is read once takes longer.
    return gzip.open(path) if path.suffix.lower() == ".gz" else Opener(str(path))


def _tell_slowness(path: Path, start: int, seconds: float) -> None:
    global _slowness_was_told
    if not _slowness_was_told and seconds > _SLOW:
        _slowness_was_told = True
        _log.warning(
            "%s is compressed: to read from frame %d, the frames before it were unpacked, which took %.1f s and is "
            "repeated by every such read. nstorm.data.decompress makes an uncompressed copy, from which a clip is read "
            "directly. (Said once, for the first such file.)",
            path,
            start,
            seconds,
        )
