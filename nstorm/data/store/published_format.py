"""Runs as the published preparations of NeuroSTORM and SwiFT wrote them: one folder of ``.pt`` files a run.

Newer ones are one file, ``data.pt``: int8 frames and the step that they count in. Older ones are a file for every
frame, ``frame_0.pt`` and on, in float16. Neither says where its voxels lie, or when they were measured.
"""

import math
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Shaped
from numpy.typing import ArrayLike
from torch import Tensor

from nstorm.data.files.frame_range import frame_range
from nstorm.data.published import CHUNK, TR
from nstorm.data.store.published_files import DATA, frame_files, is_of_run, read_data, read_frame

if TYPE_CHECKING:
    import monai.data.meta_tensor

# MNI152 at 2 mm as FSL and the HCP store it, without the first 6 and the last 7 of its 109 coronal slices
SHAPE = (91, 96, 91)
AFFINE = ((-2.0, 0.0, 0.0, 90.0), (0.0, 2.0, 0.0, -114.0), (0.0, 0.0, 2.0, -72.0), (0.0, 0.0, 0.0, 1.0))
MNI152_CODE = 4


class PublishedRun:
    """A run that a published preparation wrote; frames are read when they are asked for.

    Attributes:
        path: ``data.pt``, or the folder of the frames.
        files: All files that the run is in.
        num_frames: Number of frames.
        shape: ``(H, W, D)``.
        step: What the numbers in the files are multiples of; 1 where they are the values.

    Args:
        path: The folder of the run, or a file in it.

    Raises:
        FileNotFoundError: There is no such folder, it has no run, or a frame is missing.
        ValueError: A file is damaged, something else, or holds more than numbers.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        folder = Path(path)
        if folder.is_file() and is_of_run(folder.name):
            folder = folder.parent
        if not folder.is_dir():
            raise FileNotFoundError(f"{path} is no folder: give the one that holds the {DATA} or frame_0.pt of a run")
        self._frames: Tensor | None = None
        self.step = 1.0
        self.path = folder / DATA
        if self.path.is_file():
            self.files: tuple[Path, ...] = (self.path,)
            self._frames, self.step = read_data(self.path)
            self.num_frames = len(self._frames)
            self.shape = tuple(self._frames.shape[1:])
        else:
            self.path = folder
            self.files = frame_files(folder)
            self.num_frames = len(self.files)
            self.shape = tuple(read_frame(self.files[0]).shape)

    @property
    def format(self) -> str:
        """What the files are called."""
        return DATA if self._frames is not None else "frame_*.pt"

    def stored(self, start: int, stop: int) -> Shaped[Tensor, "T H W D"]:
        """Give the numbers that the files hold of some frames: int8, or floating-point values.

        Raises:
            ValueError: The file of a frame is damaged or something else, or does not fit the first.
        """
        if self._frames is not None:
            return self._frames[start:stop]
        frames = [read_frame(file) for file in self.files[start:stop]]
        for file, frame in zip(self.files[start:stop], frames, strict=True):
            if frame.shape != self.shape:
                raise ValueError(
                    f"{file} has voxels {tuple(frame.shape)}, but {self.files[0].name} beside it {self.shape}: they "
                    "are of two runs, so separate them"
                )
        return torch.stack(frames)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Give the first of some frames, and the numbers that the files hold of them, until all are given."""
        for start in range(0, self.num_frames, CHUNK):
            yield start, self.stored(start, start + CHUNK)

    def affine(self, given: ArrayLike | Tensor | None) -> Tensor:
        """Give the affine of the run: the one that is given, or that of the published grid.

        Raises:
            ValueError: None is given, and the run is not on the published grid.
        """
        if given is None and self.shape != SHAPE:
            raise ValueError(
                f"{self.path} has voxels {self.shape}, and where they lie is known for the published {SHAPE} only: "
                "pass affine=, the 4x4 matrix from its voxels to mm"
            )
        affine = torch.as_tensor(AFFINE if given is None else given, dtype=torch.float64).clone()
        if affine.shape != (4, 4):
            raise ValueError(f"affine has shape {tuple(affine.shape)}, but it has to be 4x4, from voxels to mm")
        return affine


def load_published(
    folder: str | PathLike[str],
    *,
    frames: slice | Sequence[int] | None = None,
    tr: float = TR,
    affine: ArrayLike | Tensor | None = None,
) -> "monai.data.meta_tensor.MetaTensor":
    """Read a run, or some of its frames, from the files of the published NeuroSTORM or SwiFT preparation.

    The files are ``data.pt`` or, where there is none, ``frame_0.pt`` and on. Of ``data.pt`` only the frames that are
    asked for are read. Nothing but numbers is taken out of the files, so that none of them can run code.

    Values are as the models take them: z-scores over the brain and time, and around the brain the lowest of them. For
    clips at full speed, and the values before the z-score, convert such runs with
    :func:`nstorm.data.convert_published`.

    Args:
        folder: The folder of the run, or a file in it.
        frames: ``(start, stop)``, or them as a slice or a range. By default all.
        tr: The repetition time in seconds, which the files do not say. NeuroSTORM's preparation made it 0.8 s; SwiFT's,
            and the first versions of NeuroSTORM's, left it as it was (0.72 s for the HCP).
        affine: From voxels to mm, 4x4, which the files do not say either. By default that of MNI152 at 2 mm, numbered
            towards left, anterior and superior, without the ends of the second axis: for runs of 91 x 96 x 91 voxels.

    Returns:
        A MetaTensor ``(T, H, W, D)`` float32 with ``affine``, ``meta["tr"]``, ``meta["start_frame"]``,
        ``meta["start_time"]`` in seconds, ``meta["filename_or_obj"]`` and ``meta["space_code"]`` (MNI152).

    Raises:
        FileNotFoundError: There is no such folder, it has no run, or a frame is missing.
        ValueError: A file is damaged, something else, or holds more than numbers; there are no such frames; or the run
            has other voxels than the published ones, and no affine is given.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from nstorm.data import load_published
        >>> saved = {"frames": torch.arange(-60, 60).view(30, 1, 2, 2).to(torch.int8), "scale": 0.1, "num_frames": 30}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(saved, f"{folder}/data.pt")
        ...     clip = load_published(folder, frames=(10, 12), affine=torch.diag(torch.tensor([-2.0, 2, 2, 1])))
        >>> clip.shape, clip.meta["start_time"], clip[0, 0, 0, 0].item()
        (torch.Size([2, 1, 2, 2]), 8.0, -2.0)
    """
    from monai.data.meta_tensor import MetaTensor

    checked_tr(tr)
    run = PublishedRun(folder)
    matrix = run.affine(affine)
    start, stop = frame_range(frames, run.num_frames, str(run.path))
    values = run.stored(start, stop).to(torch.float32, copy=True)
    meta = {
        "tr": tr,
        "start_frame": start,
        "start_time": start * tr,
        "filename_or_obj": str(run.path),
        "space_code": MNI152_CODE,
    }
    return MetaTensor(values.mul_(run.step) if run.step != 1 else values, affine=matrix, meta=meta)


def checked_tr(tr: float) -> None:
    """Check a repetition time.

    Raises:
        ValueError: It is none.
    """
    if not (math.isfinite(tr) and tr > 0):
        raise ValueError(f"tr is {tr}, but it has to be the repetition time in seconds, above 0")
