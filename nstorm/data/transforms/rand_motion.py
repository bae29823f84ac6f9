"""Head motion: every frame in a pose of its own."""

from typing import Literal

import numpy as np
import torch
from monai.transforms.utils import create_rotate, create_translate
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nstorm.data.layout import as_float, time_first, with_layout
from nstorm.data.space.grid import grid_of
from nstorm.data.time.timing import with_meta
from nstorm.data.transforms.base import RandBOLDTransform, RandOnKeys
from nstorm.data.transforms.rand_affine import centred
from nstorm.data.transforms.ranges import checked_range


class RandMotion(RandBOLDTransform):
    """Move the head during the run: each frame is resampled in its own rigid pose.

    Each of the six parameters of the pose is a random walk over the frames with mean 0, scaled such that its largest
    excursion is what was drawn for it. A jerk is a step of the same size at a random frame, after which the head stays
    where it is.

    The trace is in the form of fMRIPrep's confounds ``trans_x, trans_y, trans_z, rot_x, rot_y, rot_z``: mm and radians
    along and about the axes of the world, around the centre of the volume. It says where the head goes: a place ``p``
    is found at ``rotation @ p + translation``, the rotation about x after that about y after that about z.

    Args:
        prob: Probability that the transform is applied.
        translate_range: Bounds, in mm, of the largest excursion along an axis, drawn for each of the three.
        rotate_range: Bounds, in radians, of the largest excursion about an axis. 1 degree is 0.0175.
        max_jerks: Up to so many jerks are drawn.
        padding_mode: What comes in from outside the volume: the nearest voxel of its ``"border"``, or ``"zeros"``.

    Attributes:
        trace: The trace drawn last, ``(T, 6)``. The result also carries it as ``meta["motion"]``.

    Raises:
        ValueError: A range is none, ``max_jerks`` is negative, the image is a plain tensor, or an image that shares
            the draw has another number of frames (a mask does not move along; leave it out).

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.transforms.rand_motion import RandMotion
        >>> moved = RandMotion(translate_range=(1.0, 1.0)).set_random_state(0)(load_bold(rest_run().bold)[:10])
        >>> moved.meta["motion"].shape, moved.meta["motion"][:, :3].abs().amax(dim=0).tolist()
        (torch.Size([10, 6]), [1.0, 1.0, 1.0])
    """

    def __init__(
        self,
        prob: float = 1.0,
        *,
        translate_range: tuple[float, float] = (0.0, 1.0),
        rotate_range: tuple[float, float] = (0.0, 0.02),
        max_jerks: int = 0,
        padding_mode: Literal["border", "zeros"] = "border",
    ) -> None:
        super().__init__(prob)
        self.translate_range = checked_range("translate_range", translate_range, at_least=0.0)
        self.rotate_range = checked_range("rotate_range", rotate_range, at_least=0.0)
        if max_jerks < 0:
            raise ValueError(f"max_jerks is {max_jerks}, but it has to be 0 or more")
        self.max_jerks = max_jerks
        self.padding_mode = padding_mode

    def draw(self, img: Tensor) -> None:
        """Draw the trace."""
        frames = len(time_first(img))
        largest = np.concatenate([self.R.uniform(*span, 3) for span in (self.translate_range, self.rotate_range)])
        trace = self.R.standard_normal((frames, 6)).cumsum(axis=0)
        trace = _centred(trace) / max(1, np.sqrt(frames))
        for frame in self.R.randint(0, frames, self.R.randint(self.max_jerks + 1)):
            trace[frame:] += self.R.uniform(-2, 2, 6)
        trace = _centred(trace)
        self.trace = trace * largest / np.abs(trace).max(axis=0).clip(min=np.finfo(float).tiny)

    def apply(self, img: Tensor) -> Tensor:
        """Move an image along the trace drawn last."""
        frames = time_first(as_float(img)).contiguous()
        if len(frames) != len(self.trace):
            raise ValueError(
                f"the image has {len(frames)} frames, but the motion was drawn for {len(self.trace)}: "
                "leave keys that are not clips of that length out, masks too"
            )
        to_mm = centred(grid_of(img).affine.numpy(), img)
        moved = torch.empty_like(frames)
        for frame, pose, out in zip(frames, self.trace, moved, strict=True):
            back = np.linalg.inv(create_translate(3, pose[:3]) @ create_rotate(3, pose[3:]))
            theta = _normalised(np.linalg.inv(to_mm) @ back @ to_mm, img.shape[1:4])
            grid = F.affine_grid(
                torch.from_numpy(theta[None, :3]).to(frames), [1, 1, *img.shape[1:4]], align_corners=False
            )
            out.copy_(F.grid_sample(frame[None, None], grid, padding_mode=self.padding_mode, align_corners=False)[0, 0])
        return with_meta(with_layout(moved, img), img, motion=torch.from_numpy(self.trace.copy()))


def _centred(trace: NDArray[np.float64]) -> NDArray[np.float64]:
    return trace - trace.mean(axis=0)


def _normalised(voxel_matrix: NDArray[np.float64], shape: torch.Size) -> NDArray[np.float64]:
    """Rewrite a map of voxel indices for ``affine_grid``: axes reversed, the volume's edges at -1 and 1."""
    size = np.array(shape[::-1], dtype=float)
    to_unit = np.diag([*2 / size, 1])
    to_unit[:3, 3] = 1 / size - 1
    reverse = np.ix_([2, 1, 0, 3], [2, 1, 0, 3])
    return to_unit @ voxel_matrix[reverse] @ np.linalg.inv(to_unit)


class RandMotiond(RandOnKeys):
    """Dictionary form of :class:`RandMotion`: one trace for all keys."""

    array_class = RandMotion
