"""Brain masks as transforms: found in a run, and applied to it."""

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config.type_definitions import KeysCollection
from torch import Tensor

from nstorm.data.space.brain_mask import apply_mask, brain_mask
from nstorm.data.transforms.base import BOLDTransform, OnKeys, OnKeysInMask


class BrainMask(BOLDTransform):
    """Find the brain in a run, as :func:`nstorm.data.brain_mask` does; the arguments are its own.

    Args:
        lower_cutoff: Fraction of the voxels that are surely outside.
        upper_cutoff: Fraction of the voxels below which the threshold lies.
        opening: How many voxels are eroded and dilated again; 0 for images of few or large voxels.
        exclude_zeros: Whether voxels that are exactly 0 do not count for the fractions.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.transforms.brain_mask import BrainMask
        >>> BrainMask()(load_bold(rest_run().bold)).shape
        torch.Size([1, 48, 56, 48])
    """

    def __init__(
        self,
        *,
        lower_cutoff: float = 0.2,
        upper_cutoff: float = 0.85,
        opening: int = 2,
        exclude_zeros: bool = False,
    ) -> None:
        self.arguments: dict[str, Any] = {
            "lower_cutoff": lower_cutoff,
            "upper_cutoff": upper_cutoff,
            "opening": opening,
            "exclude_zeros": exclude_zeros,
        }

    def __call__(self, img: Tensor) -> Tensor:
        """Compute the mask of a run."""
        return brain_mask(img, **self.arguments)


class ApplyMask(BOLDTransform):
    """Set every voxel outside a mask to one value, as :func:`nstorm.data.apply_mask` does.

    Args:
        value: A number, or ``"min"`` for the lowest value inside the mask.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.brain_mask import ApplyMask
        >>> mask = torch.tensor([True, False]).view(1, 1, 1, 2)
        >>> ApplyMask("min")(torch.tensor([[5.0, 1.0], [4.0, 2.0]]).view(2, 1, 1, 2), mask).flatten()
        tensor([5., 4., 4., 4.])
    """

    def __init__(self, value: float | str = 0.0) -> None:
        self.value = value

    def __call__(self, img: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Set the voxels outside the mask."""
        return apply_mask(img, mask, value=self.value)


class OnKeysWithMask(OnKeysInMask):
    """Base of dictionary forms of transforms that need a mask.

    Args:
        mask_key: Key of a boolean mask ``(1, H, W, D)`` or ``(H, W, D)``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *args: Any,
        mask_key: Hashable = "mask",
        allow_missing_keys: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(keys, *args, mask_key=mask_key, allow_missing_keys=allow_missing_keys, **kwargs)


class ApplyMaskd(OnKeysWithMask):
    """Dictionary form of :class:`ApplyMask`.

    Args:
        mask_key: Key of the mask.
    """

    array_class = ApplyMask


class BrainMaskd(OnKeys):
    """Dictionary form of :class:`BrainMask`, which adds the mask of the run to the item.

    Args:
        keys: Key of the run.
        mask_key: Key that the mask gets.

    Raises:
        ValueError: ``keys`` names more than one run.
    """

    array_class = BrainMask

    def __init__(
        self, keys: KeysCollection, *, mask_key: Hashable = "mask", allow_missing_keys: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(keys, allow_missing_keys=allow_missing_keys, **kwargs)
        if len(self.keys) != 1:
            raise ValueError(f"keys is {self.keys}, but one mask is made of one run: use one BrainMaskd for each")
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the mask; the given dictionary stays as it is."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[self.mask_key] = self.transform(d[key])
        return d
