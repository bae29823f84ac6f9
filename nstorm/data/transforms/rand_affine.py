"""Random affine maps and flips of space, the same for all frames."""

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.utils import create_rotate, create_scale, create_shear, create_translate
from monai.utils.misc import ensure_tuple_rep
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.layout import time_first
from nstorm.data.space.grid import Grid, grid_of
from nstorm.data.space.resample_space import resample_space
from nstorm.data.space.sampling import sample_volume
from nstorm.data.time.timing import with_meta
from nstorm.data.transforms.base import InvertibleOnKeys, InvertibleRandBOLDTransform, RandBOLDTransform, RandOnKeys
from nstorm.data.transforms.ranges import AxisRange, checked_axes, uniform

Mode = Literal["bilinear", "nearest"]


def centred(affine: NDArray[np.float64], img: Tensor) -> NDArray[np.float64]:
    """Give the map from voxel indices to mm from the centre of the volume."""
    moved = affine.copy()
    moved[:3, 3] = -affine[:3, :3] @ (np.array(img.shape[1:4]) - 1) / 2
    return moved


class RandWarp(RandBOLDTransform):
    """Base of transforms that read an image at other places, all frames alike; see :class:`RandBOLDAffine`."""

    def __init__(
        self,
        prob: float = 1.0,
        *,
        rotate_range: AxisRange = None,
        shear_range: AxisRange = None,
        translate_range: AxisRange = None,
        scale_range: AxisRange = None,
        mode: Mode | None = None,
        padding_mode: Literal["border", "zeros"] = "border",
    ) -> None:
        super().__init__(prob)
        self.rotate_range = checked_axes("rotate_range", rotate_range)
        self.shear_range = checked_axes("shear_range", shear_range, 6)
        self.translate_range = checked_axes("translate_range", translate_range)
        self.scale_range = checked_axes("scale_range", scale_range)
        if (self.scale_range <= -1).any():
            raise ValueError(f"scale_range is {scale_range}, but it has to stay above -1, where nothing is left")
        self.mode = mode
        self.padding_mode = padding_mode
        self.matrix = np.eye(4)

    def draw(self, img: Tensor) -> None:
        """Draw the matrix."""
        rotation = create_rotate(3, uniform(self.R, self.rotate_range))
        shear = create_shear(3, uniform(self.R, self.shear_range))
        translation = create_translate(3, uniform(self.R, self.translate_range))
        scaling = create_scale(3, [1 + factor for factor in uniform(self.R, self.scale_range)])
        self.matrix = np.asarray(rotation @ shear @ translation @ scaling)

    def places(self, img: Tensor, voxel_matrix: NDArray[np.float64]) -> Tensor:
        """Where the voxels of the result lie in the image, ``(H, W, D, 3)`` as voxel indices."""
        *columns, shift = torch.from_numpy(voxel_matrix[:3].T).float().to(img.device)
        i, j, k = (torch.arange(size, device=img.device)[:, None] for size in img.shape[1:4])
        return (i * columns[0])[:, None, None] + ((j * columns[1])[:, None] + (k * columns[2] + shift))

    def mode_for(self, img: Tensor, mode: Mode | None) -> Mode:
        """How an image is read: as told by its key, by the argument, or by what it holds."""
        return mode or self.mode or ("bilinear" if img.is_floating_point() else "nearest")

    def apply(self, img: Tensor, *, mode: Mode | None = None) -> Tensor:
        """Transform an image with the matrix drawn last."""
        frames = time_first(img.as_subclass(Tensor)).movedim(0, -1)
        affine = grid_of(img).affine.numpy() if isinstance(img, MetaTensor) else np.eye(4)
        to_mm = centred(affine, img)
        voxel_matrix = np.linalg.inv(to_mm) @ self.matrix @ to_mm
        moved = sample_volume(
            frames,
            self.places(img, voxel_matrix),
            mode=self.mode_for(img, mode),
            padding_mode=self.padding_mode,
        )
        moved = moved.movedim(-1, 0).contiguous() if img.ndim == 4 else moved[None]
        return with_meta(moved, img, affine=torch.from_numpy(affine @ voxel_matrix))


class RandBOLDAffine(RandWarp, InvertibleRandBOLDTransform):
    """Rotate, shear, shift and scale a run around the centre of its volume, all frames alike.

    The map acts on mm along the axes of the world (x to the right, y to the front, z up), so that anisotropic voxels
    are not sheared by a rotation, and a brain is augmented alike however it is stored. The result stays on the grid of
    the image. Its affine says where the voxels of the result come from, as MONAI's does: each place of the brain keeps
    its position in mm, and an atlas laid over the result by affine fits.

    As in MONAI, ``matrix = rotation @ shear @ translation @ scaling`` maps places of the result to places of the
    image: a scale of 1.1 makes the brain smaller. A plain tensor has no affine; its voxels count as 1 mm.

    The inverse interpolates a second time, and repeats the border where something left the volume.

    Args:
        prob: Probability that the transform is applied.
        rotate_range: Angles in radians about x, y and z. ``0.1`` draws each from -0.1 to 0.1 (in MONAI, only the
            first); ``(0.1, 0.0, (0.0, 0.2))`` gives each axis its own range.
        shear_range: Shearing factors, six, in MONAI's order.
        translate_range: Shifts in mm along x, y and z.
        scale_range: Scaling factors less 1 along x, y and z.
        mode: ``"bilinear"`` (trilinear in space) or ``"nearest"``. By default nearest for boolean and integer images,
            which are masks and labels. The dictionary form takes one for all keys or one for each.
        padding_mode: What lies outside the volume: the nearest voxel of its ``"border"``, or ``"zeros"``.

    Attributes:
        matrix: The matrix drawn last, in mm from the centre.

    Raises:
        ValueError: A range is none, or the image has neither layout.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.transforms.rand_affine import RandBOLDAffine
        >>> bold = load_bold(rest_run().bold)[:10]
        >>> turn = RandBOLDAffine(rotate_range=0.2, translate_range=4.0).set_random_state(0)
        >>> turn(bold).shape
        torch.Size([10, 48, 56, 48])
    """

    def trace(self, img: Tensor, *, mode: Mode | None = None) -> dict[str, Any]:
        """Note the grid of an image, and how it was read."""
        return {"affine": grid_of(img).affine.numpy(), "mode": self.mode_for(img, mode)}

    def undo(self, img: Tensor, trace: dict[str, Any]) -> Tensor:
        """Read an image at the places that its voxels came from."""
        source = Grid(img.shape[1:4], trace["affine"])
        return resample_space(img, source, mode=trace["mode"], antialias=False, padding="border")


class RandOnKeysWithMode(RandOnKeys):
    """Base of dictionary forms that interpolate, each key in its own mode."""

    def __init__(self, keys: KeysCollection, *args: Any, allow_missing_keys: bool = False, **kwargs: Any) -> None:
        modes = kwargs.pop("mode", None)
        super().__init__(keys, *args, allow_missing_keys=allow_missing_keys, **kwargs)
        self.modes = dict(zip(self.keys, ensure_tuple_rep(modes, len(self.keys)), strict=True))

    def arguments(self, data: Mapping[Hashable, Any], key: Hashable) -> dict[str, Any]:
        """Give the mode of the key."""
        return {"mode": self.modes[key]}


class RandBOLDAffined(RandOnKeysWithMode, InvertibleOnKeys):
    """Dictionary form of :class:`RandBOLDAffine`: one matrix for all keys."""

    array_class = RandBOLDAffine
