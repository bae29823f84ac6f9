"""Several views of one clip, for contrastive pre-training."""

from collections.abc import Callable, Hashable, Mapping
from copy import deepcopy
from typing import Any

from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform
from torch import Tensor

from nstorm.data.transforms.time_as_channel import RandomlyInside


class Views(RandomlyInside):
    """Draw several augmented views of a clip, each from the clip itself and with a draw of its own.

    No view shares memory with another or with the clip, whatever the transform does to what it is given.

    Args:
        transform: A random array transform, or a Compose of several.
        num_views: Number of views.

    Raises:
        ValueError: ``num_views`` is below 1.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.rand_intensity import RandBOLDNoise
        >>> from nstorm.data.transforms.views import Views
        >>> first, second = Views(RandBOLDNoise(std_range=(1.0, 1.0)))(torch.zeros(1, 4, 5, 6, 20))
        >>> first.shape, bool((first == second).any())
        (torch.Size([1, 4, 5, 6, 20]), False)
    """

    def __init__(self, transform: Callable[..., Any], num_views: int = 2) -> None:
        self.transform = transform
        self.num_views = _checked(num_views)

    def __call__(self, img: Tensor) -> list[Tensor]:
        """Draw the views; the clip stays as it is."""
        return [self.call_inside(_copied(img)) for _ in range(self.num_views)]


class Viewsd(RandomlyInside, MapTransform):
    """Dictionary form of :class:`Views`: an item gains ``image_0``, ``image_1`` and so on for its ``image``.

    Each view keeps its own meta (affine, start time, motion), and MONAI's loaders collate each into a batch of its
    own. The clip itself stays in the item; ``monai.transforms.DeleteItemsd`` takes it away.

    Args:
        keys: Keys that get views, such as a clip and its mask.
        transform: A random dictionary transform, which has keys of its own, or a Compose of several.
        num_views: Number of views.
        allow_missing_keys: Whether to pass over keys that an item lacks.

    Raises:
        ValueError: ``num_views`` is below 1.
        KeyError: An item lacks a key.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.rand_intensity import RandBOLDNoised
        >>> from nstorm.data.transforms.views import Viewsd
        >>> list(Viewsd("image", RandBOLDNoised("image"))({"image": torch.zeros(1, 4, 5, 6, 20), "label": 1}))
        ['image', 'label', 'image_0', 'image_1']
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: Callable[..., Any],
        num_views: int = 2,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = transform
        self.num_views = _checked(num_views)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw the views of an item, which stays as it is."""
        d = dict(data)
        keys = list(self.key_iterator(d))
        for number in range(self.num_views):
            view = self.call_inside({key: _copied(value) for key, value in data.items()})
            d.update({f"{key}_{number}": view[key] for key in keys})
        return d


def _copied(value: Any) -> Any:
    # deepcopy would copy the whole run that a clip is a view of
    return value.clone() if isinstance(value, Tensor) else deepcopy(value)


def _checked(num_views: int) -> int:
    if num_views < 1:
        raise ValueError(f"num_views is {num_views}, but there has to be at least 1 view")
    return num_views
