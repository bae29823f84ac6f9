"""BOLD runs from NIfTI files, with the repetition time and the affine that the files give."""

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from nstorm.data.files.finite import not_finite, put_volume
from nstorm.data.files.frame_range import frame_pair, frame_range
from nstorm.data.files.nifti import open_nifti
from nstorm.data.files.repetition_time import repetition_time

if TYPE_CHECKING:
    import monai.data.meta_tensor

_NUMPY_TYPES: dict[torch.dtype, type[np.floating]] = {torch.float32: np.float32, torch.float64: np.float64}


class BOLDFile:
    """A run on disk, of which only the header is read until :meth:`read` is called.

    It keeps no file open: it can be pickled, and read from many processes and threads.

    Attributes:
        path: The file.
        shape: ``(H, W, D, T)``.
        num_frames: ``T``.
        affine: From voxel indices to mm, 4x4 float64.
        tr: The repetition time in seconds.
        dtype: The type of the stored numbers.
        compressed: Whether a clip costs the unpacking of all frames before it.

    Args:
        path: A NIfTI-1 or NIfTI-2 file: ``.nii``, ``.nii.gz``, or one of a pair of ``.hdr`` and ``.img``.
        tr: The repetition time in seconds; it overrides the files. By default it comes from the BIDS sidecar
            (``RepetitionTime``, inherited from the image's folder or one above) or from the header. Where both give
            it they have to agree to 1 ms.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or no 4D NIfTI image, does not say where its voxels lie, or its repetition time
            is missing, implausible or contradictory.

    Example:
        >>> from nstorm.data import haxby_runs
        >>> from nstorm.data.files.reader import BOLDFile
        >>> run = BOLDFile(haxby_runs()[0].bold)
        >>> run.shape, run.tr
        ((40, 20, 1, 121), 2.5)
        >>> run.read(100, 120).shape
        torch.Size([20, 40, 20, 1])
    """

    def __init__(self, path: str | PathLike[str], *, tr: float | None = None) -> None:
        self.path = Path(path)
        self._file = file = open_nifti(self.path)
        if len(file.shape) != 4 or 0 in file.shape:
            raise ValueError(
                f"{path} has shape {file.shape}, but a BOLD run has four axes (H, W, D, T), none of them 0"
                + _advice(file.shape)
            )
        self.shape = file.shape
        self.num_frames = file.shape[3]
        self.affine = torch.from_numpy(file.affine)
        self.tr = repetition_time(self.path, file.header, tr=tr)
        self.dtype = file.dtype
        self.compressed = file.compressed

    def read(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        fill_nan: float | None = None,
    ) -> "monai.data.meta_tensor.MetaTensor":
        """Read the frames from ``start`` to before ``stop``, by default all, and nothing after them.

        From an uncompressed file only their bytes are read. A compressed one has to be unpacked up to them. A gzip
        file's checksum stands at its end, so that damage is seen for certain only where the last frame is read too.

        Args:
            start: The first frame.
            stop: The frame after the last one.
            dtype: ``torch.float32``, or ``torch.float64`` for files whose values it would round.
            fill_nan: The value to put in place of NaN, such as 0 for SPM's images, which are NaN outside the brain.
                By default NaN is an error.

        Returns:
            A MetaTensor ``(T, H, W, D)`` with ``affine``; ``meta["tr"]``; ``meta["start_frame"]``, which is ``start``,
            and ``meta["start_time"]``, its seconds after the first frame of the file; ``meta["filename_or_obj"]``; and
            ``meta["space_code"]``, NIfTI's code of the space that the affine leads to.

        Raises:
            ValueError: The file has no such frames or is damaged, a value is infinite or NaN, or no voxel changes over
                the frames.
        """
        from monai.data.meta_tensor import MetaTensor

        start, stop = self.checked_frames((start, self.num_frames if stop is None else stop))
        if dtype not in _NUMPY_TYPES:
            raise ValueError(f"dtype is {dtype}, but a run is read as torch.float32 or torch.float64")
        frames = self._frames(start, stop, _NUMPY_TYPES[dtype], fill_nan)
        return MetaTensor(torch.from_numpy(frames), affine=self.affine.clone(), meta=self._meta(start))

    def blocks(
        self, num_frames: int = 16, *, fill_nan: float | None = None
    ) -> Iterator["monai.data.meta_tensor.MetaTensor"]:
        """Read all frames, some at a time, for a run that is to be gone through without being held in memory.

        A gzip file is unpacked once. That it is whole shows only after the last block.

        Args:
            num_frames: Number of frames of a block; the last one may have fewer.
            fill_nan: As of :meth:`read`.

        Yields:
            What :meth:`read` gives for these frames, float32, each in the memory of the one before.

        Raises:
            ValueError: The file is damaged, or a value is infinite or NaN.

        Example:
            >>> from nstorm.data import haxby_runs
            >>> from nstorm.data.files.reader import BOLDFile
            >>> [len(block) for block in BOLDFile(haxby_runs()[0].bold).blocks(50)]
            [50, 50, 21]
        """
        from monai.data.meta_tensor import MetaTensor

        memory = np.empty((min(num_frames, self.num_frames), *self.shape[:3]), np.float32)
        volumes = self._file.volumes(0, self.num_frames)
        for start in range(0, self.num_frames, num_frames):
            frames = memory[: self.num_frames - start]
            # the frames first, so that no volume is taken where none is wanted
            broken = [
                index
                for index, (frame, volume) in enumerate(zip(frames, volumes, strict=False))
                if not put_volume(frame, volume, fill_nan)
            ]
            if broken:
                raise not_finite(self.path, frames, start, broken)
            yield MetaTensor(torch.from_numpy(frames), affine=self.affine.clone(), meta=self._meta(start))
        # a checksum stands behind the last volume
        next(volumes, None)

    def checked_frames(self, frames: Sequence[int]) -> tuple[int, int]:
        """Check that ``(start, stop)`` are frames of the run.

        Raises:
            ValueError: They are not.
        """
        return frame_pair(frames, self.num_frames, str(self.path))

    def _frames(self, start: int, stop: int, dtype: type[np.floating], fill_nan: float | None) -> NDArray[np.floating]:
        frames = np.empty((stop - start, *self.shape[:3]), dtype)
        broken, changes = [], False
        for index, volume in enumerate(self._file.volumes(start, stop)):
            if not put_volume(frames[index], volume, fill_nan):
                broken.append(index)
            changes = changes or not np.array_equal(frames[index], frames[0])
        if broken:
            raise not_finite(self.path, frames, start, broken)
        if not changes and len(frames) > 1:
            raise ValueError(
                f"{self.path} has no voxel that changes over frames {start} to {stop} (their values go from "
                f"{frames.min():g} to {frames.max():g}): export the run again, or leave it out"
            )
        return frames

    def _meta(self, start: int) -> dict[str, Any]:
        return {
            "tr": self.tr,
            "start_frame": start,
            "start_time": start * self.tr,
            "filename_or_obj": str(self.path),
            "space_code": self._file.space_code,
        }

    def __repr__(self) -> str:
        return f"BOLDFile({str(self.path)!r}, shape={self.shape}, tr={self.tr:g})"


def load_bold(
    path: str | PathLike[str],
    *,
    tr: float | None = None,
    frames: slice | Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    fill_nan: float | None = None,
) -> "monai.data.meta_tensor.MetaTensor":
    """Read a 4D BOLD image, or some of its frames, with time as the first axis.

    The result has shape ``(T, H, W, D)`` with the file's scaling (``scl_slope``, ``scl_inter``) applied; voxels are
    neither reordered nor resampled. MONAI's spatial transforms take this layout and treat all frames alike. MONAI's
    own reader is not used: it overwrites the repetition time.

    Args:
        path: A NIfTI-1 or NIfTI-2 file.
        tr: The repetition time in seconds; it overrides the files, see :class:`BOLDFile`.
        frames: ``(start, stop)``, or them as a slice or a range; no others are read. By default all.
        dtype: ``torch.float32``, or ``torch.float64`` for files whose values it would round.
        fill_nan: The value to put in place of NaN. By default NaN is an error.

    Returns:
        A MetaTensor with ``affine`` (voxel indices to mm, 4x4 float64) and the meta that :meth:`BOLDFile.read` lists.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As :class:`BOLDFile` and :meth:`BOLDFile.read` say.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold
        >>> bold = load_bold(haxby_runs()[0].bold)
        >>> bold.shape
        torch.Size([121, 40, 20, 1])
        >>> bold.meta["tr"]
        2.5
    """
    run = BOLDFile(path, tr=tr)
    start, stop = frame_range(frames, run.num_frames, str(run.path))
    return run.read(start, stop, dtype=dtype, fill_nan=fill_nan)


def _advice(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return ": give the run, or join images of one frame each, as SPM writes them, with nilearn.image.concat_imgs"
    if len(shape) == 5 and shape[3] == 1:
        return ": time has become the fifth axis, so take the fourth away (nibabel's image.slicer[:, :, :, 0])"
    if len(shape) == 5:
        return ": combine the echoes of a multi-echo run (tedana or fMRIPrep do), or save each as an image of its own"
    return ""
