"""The frames of a file in blocks, each file unpacked once."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from nstorm.data.files.nifti import open_nifti
from nstorm.data.files.reader import BOLDFile

if TYPE_CHECKING:
    import monai.data.meta_tensor

# as many as the published preparation works on
BLOCK = 16


def blocks(
    file: BOLDFile, fill_nan: float | None, progress: Callable[[float], None]
) -> Iterator["monai.data.meta_tensor.MetaTensor"]:
    """Read all frames of a run, ``(T, H, W, D)`` float32 a block, each into the memory of the one before.

    Args:
        file: The run.
        fill_nan: The value to put in place of NaN; by default NaN is an error.
        progress: Told the share of the frames that is read.

    Raises:
        ValueError: The file is damaged, or a value is infinite or NaN.
    """
    from monai.data.meta_tensor import MetaTensor

    memory = np.empty((min(BLOCK, file.num_frames), *file.shape[:3]), np.float32)
    volumes = open_nifti(file.path).volumes(0, file.num_frames)
    # a number that float32 cannot hold becomes infinite, which is refused
    with np.errstate(over="ignore"):
        for index, volume in enumerate(volumes):
            frame = memory[index % BLOCK]
            frame[...] = volume
            if fill_nan is not None:
                frame[np.isnan(frame)] = fill_nan
            # NaN and infinity show in the extremes
            if not np.isfinite([frame.min(), frame.max()]).all():
                raise ValueError(
                    f"{file.path} has NaN or infinite values in frame {index}: give a recipe with fill_nan=0 if they "
                    "are NaN and mark what is outside the brain, as SPM does, or correct the image"
                )
            if index + 1 == file.num_frames or (index + 1) % BLOCK == 0:
                block = torch.from_numpy(memory[: index % BLOCK + 1])
                yield MetaTensor(block, affine=file.affine.clone(), meta={"filename_or_obj": str(file.path)})
                progress((index + 1) / file.num_frames)
