"""MONAI's Compose with a guard of the layout."""

from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from typing import Any

import monai.transforms.compose as monai_compose
from monai.transforms.compose import OneOf, RandomOrder, SomeOf
from monai.transforms.lazy.functional import apply_pending_transforms
from monai.transforms.traits import ThreadUnsafe
from monai.transforms.transform import apply_transform
from monai.utils.misc import ensure_tuple

from nstorm.data.transforms.layout_guard import refuse_wrong_layout


class Compose(monai_compose.Compose):
    """MONAI's Compose, which raises where one of MONAI's transforms would mix time into space.

    On ``(1, H, W, D, T)`` MONAI's spatial transforms mostly fail, but some give wrong values without a word:
    ``Spacing`` mixes frames and voxels, ``RandGibbsNoise`` leaks over time, ``Flip`` turns time around, ``SaveImage``
    keeps the first frame. This Compose lets those pass that are known to be right there, also where they are inside
    ``OneOf``, ``SomeOf``, ``RandomOrder`` and other Composes. On a run ``(T, H, W, D)`` it refuses to standardise
    every frame by itself (``channel_wise=True``). Transforms that are not MONAI's pass.

    Arguments, ``transforms``, lazy resampling, inverse and random state are MONAI's. MONAI's datasets take it as their
    transform; given a list, they make a Compose of their own, which guards nothing.

    Args:
        transforms: The transforms in order.
        map_items: Whether, or to which depth, items of a list are transformed one by one.
        unpack_items: Whether a tuple is passed on as several arguments.
        log_stats: Whether, or to which logger, data are described where a transform fails.
        lazy: Whether to put off resampling until it can be done once for several transforms.
        overrides: Arguments for lazy resampling.

    Raises:
        ValueError: When called, a transform is wrong for the layout of the image. It says what to do instead. Inside
            another Compose it is the cause of MONAI's RuntimeError.

    Example:
        >>> import torch
        >>> from monai.transforms import RandFlipd, RandGibbsNoised
        >>> from nstorm.data.transforms.compose import Compose
        >>> from nstorm.data.transforms import TimeToLastd
        >>> item = {"image": torch.rand(5, 6, 6, 6)}
        >>> Compose([RandGibbsNoised("image", prob=1), TimeToLastd("image")])(item)["image"].shape
        torch.Size([1, 6, 6, 6, 5])
        >>> Compose([TimeToLastd("image"), RandGibbsNoised("image", prob=1)])(item)
        Traceback (most recent call last):
        ValueError: RandGibbsNoised on an image of shape (1, 6, 6, 6, 5), whose last axis is time, would mix time ...
    """

    def __init__(
        self,
        transforms: Sequence[Callable[..., Any]] | Callable[..., Any] | None = None,
        map_items: bool | int = True,
        unpack_items: bool = False,
        log_stats: bool | str = False,
        lazy: bool | None = False,
        overrides: dict[str, Any] | None = None,
    ) -> None:
        guarded = [_guarded(transform) for transform in ensure_tuple(transforms or ())]
        super().__init__(guarded, map_items, unpack_items, log_stats, lazy, overrides)

    def __call__(
        self, input_: Any, start: int = 0, end: int | None = None, threading: bool = False, lazy: bool | None = None
    ) -> Any:
        """Transform an item, from the transform numbered ``start`` to the one before ``end``."""
        lazy = self._lazy if lazy is None else lazy
        for transform in self.transforms[start:end]:
            refuse_wrong_layout(transform, input_)
            if threading and isinstance(transform, ThreadUnsafe):
                transform = deepcopy(transform)
            input_ = apply_transform(
                transform, input_, self.map_items, self.unpack_items, self.log_stats, lazy, self.overrides
            )
        return apply_pending_transforms(input_, None, self.overrides, self.log_stats)

    def flatten(self) -> "Compose":
        """Put the transforms of inner ones into one sequence; :meth:`inverse` calls it.

        MONAI's makes a new Compose, which seeds the transforms anew: they would lose the seed that they were given.
        """
        flat = copy(self)
        flat.transforms = tuple(
            inner
            for transform in self.transforms
            for inner in (
                transform.flatten().transforms
                if type(transform) is Compose and transform.map_items == self.map_items
                else (transform,)
            )
        )
        return flat


def _guarded(transform: Any) -> Any:
    """Put this Compose in the place of MONAI's, wherever it is inside a transform."""
    if type(transform) is monai_compose.Compose:
        return Compose(
            transform.transforms,
            transform.map_items,
            transform.unpack_items,
            transform.log_stats,
            transform._lazy,
            transform.overrides,
        )
    if isinstance(transform, OneOf | RandomOrder | SomeOf):
        transform = copy(transform)
        transform.transforms = tuple(_guarded(choice) for choice in transform.transforms)
    return transform
