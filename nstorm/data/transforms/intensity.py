"""Normalisation of intensities, as transforms."""

from torch import Tensor

from nstorm.data.normalize import percent_signal_change, zscore_global, zscore_voxels
from nstorm.data.transforms.base import BOLDTransform, OnKeysInMask


class ZScoreVoxels(BOLDTransform):
    """Give every voxel zero mean and unit variance over time (:func:`nstorm.data.zscore_voxels`).

    Voxels that are constant and voxels outside the mask become 0. Mean and variance are those of the frames that it is
    given: on a clip within one block of a task it takes the response away. Where the level of a clip is what tells,
    normalise the run and cut the clips from memory (:func:`nstorm.data.event_clips` takes a run).

    Args:
        robust: Use the median and the median absolute deviation.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.intensity import ZScoreVoxels
        >>> normal = ZScoreVoxels()(1000 + torch.randn(1, 4, 5, 6, 20))
        >>> normal.shape
        torch.Size([1, 4, 5, 6, 20])
    """

    def __init__(self, *, robust: bool = False) -> None:
        self.robust = robust

    def __call__(self, img: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise a run or clip, inside a mask if there is one."""
        return zscore_voxels(img, mask, robust=self.robust)


class GlobalZScore(BOLDTransform):
    """Give the brain zero mean and unit variance over all voxels and frames (:func:`nstorm.data.zscore_global`).

    Args:
        robust: Use the median and the median absolute deviation.
        outside: The value of voxels outside the mask; ``"min"`` is the lowest value inside.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.intensity import GlobalZScore
        >>> normal = GlobalZScore()(1000 + torch.randn(1, 4, 5, 6, 20))
        >>> normal.shape
        torch.Size([1, 4, 5, 6, 20])
    """

    def __init__(self, *, robust: bool = False, outside: float | str = 0.0) -> None:
        self.robust = robust
        self.outside = outside

    def __call__(self, img: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise a run or clip by the voxels of a mask, by default those that vary."""
        return zscore_global(img, mask, robust=self.robust, outside=self.outside)


class PercentSignalChange(BOLDTransform):
    """Express every voxel in percent of its mean over time (:func:`nstorm.data.percent_signal_change`).

    Args:
        robust: Use the median for the mean.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.intensity import PercentSignalChange
        >>> change = PercentSignalChange()(1000 + torch.randn(1, 4, 5, 6, 20))
        >>> change.shape
        torch.Size([1, 4, 5, 6, 20])
    """

    def __init__(self, *, robust: bool = False) -> None:
        self.robust = robust

    def __call__(self, img: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise a run or clip, inside a mask if there is one."""
        return percent_signal_change(img, mask, robust=self.robust)


class ZScoreVoxelsd(OnKeysInMask):
    """Dictionary form of :class:`ZScoreVoxels`, inside the mask under ``mask_key`` if it is given."""

    array_class = ZScoreVoxels


class GlobalZScored(OnKeysInMask):
    """Dictionary form of :class:`GlobalZScore`, inside the mask under ``mask_key`` if it is given."""

    array_class = GlobalZScore


class PercentSignalChanged(OnKeysInMask):
    """Dictionary form of :class:`PercentSignalChange`, inside the mask under ``mask_key`` if it is given."""

    array_class = PercentSignalChange
