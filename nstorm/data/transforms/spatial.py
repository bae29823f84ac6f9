"""Transforms of space, by affine: every place of the brain keeps its position in mm."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from monai.data.meta_tensor import MetaTensor
from monai.transforms.inverse import InvertibleTransform
from torch import Tensor

from nstorm.data.space.crop_or_pad import around, centred, window
from nstorm.data.space.grid import Grid, grid_of
from nstorm.data.space.orientation import orientation_towards, rearrange, reverse
from nstorm.data.space.resample_space import grid_or_spacing, resample_space
from nstorm.data.transforms.base import BOLDTransform, InvertibleOnKeys, OnKeysInMask
from nstorm.data.transforms.brain_mask import OnKeysWithMask

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage


class Reorient(BOLDTransform, InvertibleTransform):
    """Put the axes of an image into another order and direction, as :func:`nstorm.data.reorient` does.

    The inverse is exact.

    Args:
        axcodes: Where each axis leads: ``"RAS"`` to the right, to the front and up; ``"LAS"`` as the published
            NeuroSTORM weights expect it.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.transforms.spatial import Reorient
        >>> bold = load_bold(rest_run().bold)
        >>> Reorient("LAS")(bold).affine[0]
        tensor([-4.,  0.,  0., 94.], dtype=torch.float64)
    """

    def __init__(self, axcodes: str = "RAS") -> None:
        self.axcodes = axcodes

    def __call__(self, img: Tensor) -> Tensor:
        """Flip and swap the axes of space."""
        orientation = orientation_towards(img, self.axcodes)
        result = rearrange(img, orientation)
        self.push_transform(result, orig_size=tuple(img.shape[1:4]), extra_info={"orientation": orientation})
        return result

    def inverse(self, img: Tensor) -> Tensor:
        """Flip and swap the axes back."""
        return rearrange(img, reverse(self.pop_transform(img)["extra_info"]["orientation"]))


class ResampleSpace(BOLDTransform, InvertibleTransform):
    """Resample onto another grid, as :func:`nstorm.data.resample_space` does.

    The inverse resamples onto the grid that was: the values are approximately those that were, and what lay outside
    the target is ``padding``.

    Args:
        target: A :class:`nstorm.data.Grid`, another image or its path, or a voxel size in mm, one or three numbers.
        mode: ``"bilinear"`` or ``"nearest"``. By default nearest for integers and booleans, so that masks go along.
        antialias: Whether to smooth before larger voxels.
        padding: Value outside the field of view, or ``"border"``.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.transforms.spatial import ResampleSpace
        >>> bold = load_bold(rest_run().bold)[:2]
        >>> ResampleSpace(8.0)(bold).shape
        torch.Size([2, 24, 28, 24])
    """

    def __init__(
        self,
        target: "Grid | Tensor | SpatialImage | str | PathLike[str] | float | Sequence[float]",
        *,
        mode: str | None = None,
        antialias: bool = True,
        padding: float | str = 0.0,
    ) -> None:
        # not a whole image, which workers would get a copy of
        self.target = grid_or_spacing(target)
        self.mode = mode
        self.antialias = antialias
        self.padding = padding

    def __call__(self, img: Tensor) -> Tensor:
        """Resample onto the target."""
        result = resample_space(img, self.target, mode=self.mode, antialias=self.antialias, padding=self.padding)
        source = grid_of(img)
        self.push_transform(result, orig_size=source.shape, extra_info={"affine": source.affine.numpy()})
        return result

    def inverse(self, img: Tensor) -> Tensor:
        """Resample onto the grid that was."""
        trace = self.pop_transform(img)
        source = Grid(trace["orig_size"], trace["extra_info"]["affine"])
        return resample_space(img, source, mode=self.mode, antialias=False, padding=self.padding)


class CropOrPad(BOLDTransform, InvertibleTransform):
    """Cut to a number of voxels along each axis and fill up where there are fewer: :func:`nstorm.data.crop_or_pad`.

    The inverse takes away what was filled in, and puts zeros where something was cut off.

    Args:
        size: Number of voxels along all axes of space, or along each.
        value: What is filled in: a number, or ``"min"`` for the lowest value of the image.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.transforms.spatial import CropOrPad
        >>> CropOrPad(48)(load_bold(rest_run().bold)).shape
        torch.Size([200, 48, 48, 48])
    """

    def __init__(self, size: int | Sequence[int], *, value: float | str = 0.0) -> None:
        self.size = size
        self.value = value

    def _place(self, img: Tensor, mask: Tensor | None) -> tuple[list[int], list[int]]:
        return centred(img, self.size, mask)

    def __call__(self, img: Tensor, mask: Tensor | None = None) -> Tensor:
        """Cut and fill around the middle of the image, or of a mask."""
        start, size = self._place(img, mask)
        result = window(img, start, size, value=self.value)
        if isinstance(result, MetaTensor):
            self.push_transform(result, orig_size=tuple(img.shape[1:4]), extra_info={"start": start})
        return result

    def inverse(self, img: Tensor) -> Tensor:
        """Fill and cut so that every voxel is back in its place."""
        trace = self.pop_transform(img)
        return window(img, [-first for first in trace["extra_info"]["start"]], trace["orig_size"])


class CropToMask(CropOrPad):
    """Cut to the bounding box of a mask, as :func:`nstorm.data.crop_to_mask` does.

    The inverse puts zeros where something was cut off.

    Args:
        margin: Voxels to keep around the bounding box.
        multiple: The size along every axis becomes a multiple of this.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.space.brain_mask import brain_mask
        >>> from nstorm.data.transforms.spatial import CropToMask
        >>> bold = load_bold(rest_run().bold)
        >>> CropToMask(multiple=8)(bold, brain_mask(bold)).shape
        torch.Size([200, 40, 48, 40])
    """

    def __init__(self, *, margin: int = 0, multiple: int = 1) -> None:
        self.margin = margin
        self.multiple = multiple
        self.value = 0.0

    def _place(self, img: Tensor, mask: Tensor | None) -> tuple[list[int], list[int]]:
        if mask is None:
            raise ValueError("mask is None, but there has to be one to cut to: pass it")
        return around(img, mask, self.margin, self.multiple)


class Reorientd(InvertibleOnKeys):
    """Dictionary form of :class:`Reorient`."""

    array_class = Reorient


class ResampleSpaced(InvertibleOnKeys):
    """Dictionary form of :class:`ResampleSpace`; masks and labels of integers go along by the nearest voxel."""

    array_class = ResampleSpace


class CropOrPadd(OnKeysInMask, InvertibleOnKeys):
    """Dictionary form of :class:`CropOrPad`; with ``mask_key`` the middle is that of the mask."""

    array_class = CropOrPad


class CropToMaskd(OnKeysWithMask, InvertibleOnKeys):
    """Dictionary form of :class:`CropToMask`; name the mask in ``keys`` too, so that it goes along.

    Args:
        mask_key: Key of the mask.
    """

    array_class = CropToMask
