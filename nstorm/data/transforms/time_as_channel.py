"""Other people's transforms of space and intensity on ``(1, H, W, D, T)``, with time in the place of channels."""

import random
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.traits import RandomizableTrait
from monai.transforms.transform import MapTransform, Randomizable, Transform
from monai.transforms.utility.array import RandTorchIO, TorchIO
from monai.transforms.utility.dictionary import RandTorchIOd, TorchIOd
from torch import Tensor

from nstorm.data.layout import time_first, with_layout
from nstorm.data.space.grid import grid_of
from nstorm.data.time.timing import with_meta
from nstorm.data.transforms.base import BOLDTransform


class RandomlyInside(Randomizable, Transform):
    """Base of transforms around another one, which draws from the same source of randomness.

    Transforms that draw from torch's global generator, as TorchIO's do, and functions, which may draw from numpy's or
    Python's as well, get a seed from that source, and the global generators stay as they are.
    """

    transform: Any

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> "RandomlyInside":
        """Set the source of randomness, here and inside."""
        super().set_random_state(seed, state)
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(state=self.R)
        return self

    def call_inside(self, data: Any) -> Any:
        """Call the inner transform with the global generators seeded, if that is what it draws from."""
        if not _draws_globally(self.transform):
            return self.transform(data)
        with _globally_seeded(int(self.R.randint(2**31))):
            return self.transform(data)


class TimeAsChannel(RandomlyInside, InvertibleTransform, BOLDTransform):
    """Run a transform that knows channels and three axes of space on a clip: each frame is a channel to it.

    MONAI's and TorchIO's transforms treat all channels alike, so all frames get the same map, field or kernel. Those
    that treat channels one by one treat frames one by one: ``NormalizeIntensity(channel_wise=True)`` would take the
    global signal away.

    TorchIO gets the affine, so that its millimetres are true. For that, each of its transforms needs a TimeAsChannel of
    its own.

    The inverse runs the inner transform's, if it has one.

    Args:
        transform: An array transform, such as ``monai.transforms.RandBiasField()``, ``torchio.RandomMotion()`` or
            ``monai.transforms.RandTorchIO("RandomMotion")``.

    Raises:
        ValueError: The transform is a MONAI Compose with one of TorchIO's, or the image has neither layout or more than
            one channel.

    Example:
        >>> import torch
        >>> from monai.transforms import Resize
        >>> from nstorm.data.transforms.time_as_channel import TimeAsChannel
        >>> TimeAsChannel(Resize((6, 6, 6)))(torch.zeros(1, 4, 5, 6, 20)).shape
        torch.Size([1, 6, 6, 6, 20])
    """

    def __init__(self, transform: Callable[..., Any]) -> None:
        super().__init__()
        _refuse_torchio_inside(transform)
        self.transform = transform

    def __call__(self, img: Tensor) -> Tensor:
        """Transform a clip, which stays as it is, and give back its layout."""
        frames = _to_channels(img)
        if _is_torchio(self.transform) and isinstance(frames, MetaTensor):
            return with_layout(_from_torchio(self.call_inside(_for_torchio(frames)), frames), img)
        result = self.call_inside(frames)
        return with_layout(result if isinstance(result, MetaTensor) else with_meta(result, frames), img)

    def inverse(self, img: Tensor) -> Tensor:
        """Undo the inner transform."""
        if not isinstance(self.transform, InvertibleTransform):
            return img
        return with_layout(self.transform.inverse(_to_channels(img)), img)


class TimeAsChanneld(RandomlyInside, MapTransform, InvertibleTransform):
    """Dictionary form of :class:`TimeAsChannel`.

    Args:
        keys: Keys of the clips. Masks ``(1, H, W, D)`` may be among them; they have the right layout already.
        transform: A dictionary transform, which has keys of its own, or one of TorchIO's, which is given these keys.
        allow_missing_keys: Whether to pass over keys that an item lacks.

    Raises:
        KeyError: An item lacks a key.
        ValueError: As for :class:`TimeAsChannel`.

    Example:
        >>> import torch
        >>> from monai.transforms import RandFlipd
        >>> from nstorm.data.transforms.time_as_channel import TimeAsChanneld
        >>> item = {"image": torch.zeros(1, 4, 5, 6, 20), "mask": torch.ones(1, 4, 5, 6)}
        >>> flip = RandFlipd(["image", "mask"], prob=1.0, spatial_axis=0)
        >>> {key: tuple(value.shape) for key, value in TimeAsChanneld(["image", "mask"], flip)(item).items()}
        {'image': (1, 4, 5, 6, 20), 'mask': (1, 4, 5, 6)}
    """

    def __init__(self, keys: KeysCollection, transform: Callable[..., Any], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        _refuse_torchio_inside(transform)
        self.transform = transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform an item; the given dictionary and its clips stay as they are."""
        d = dict(data)
        frames = {key: _to_channels(d[key]) for key in self.key_iterator(d)}
        d.update(frames)
        if _is_torchio(self.transform):
            import torchio

            inside = self.transform.keys if isinstance(self.transform, RandTorchIOd | TorchIOd) else tuple(frames)
            images = {str(key): _for_torchio(d[key]) for key in inside}
            results = self.call_inside(torchio.Subject(images))
            d.update({key: _from_torchio(results[str(key)], d[key]) for key in inside})
        else:
            d = dict(self.call_inside(d))
        return d | {key: with_layout(d[key], data[key]) for key in frames}

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undo the inner transform."""
        if not isinstance(self.transform, InvertibleTransform):
            return dict(data)
        keys = list(self.key_iterator(data))
        d = dict(self.transform.inverse(dict(data) | {key: _to_channels(data[key]) for key in keys}))
        return d | {key: with_layout(d[key], data[key]) for key in keys}


@contextmanager
def _globally_seeded(seed: int) -> Iterator[None]:
    # numpy's old generator is what functions draw from
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def _draws_globally(transform: object) -> bool:
    if isinstance(transform, Compose):
        return any(map(_draws_globally, transform.transforms))
    if isinstance(transform, Randomizable):
        return False
    return isinstance(transform, RandomizableTrait) or not isinstance(transform, Transform)


def _is_torchio(transform: object) -> bool:
    if isinstance(transform, RandTorchIO | TorchIO | RandTorchIOd | TorchIOd):
        return True
    return any(kind.__module__.startswith("torchio.") for kind in type(transform).__mro__)


def _refuse_torchio_inside(transform: object) -> None:
    for inner in transform.transforms if isinstance(transform, Compose) else ():
        if _is_torchio(inner):
            raise ValueError(
                f"{type(transform).__name__} holds {type(inner).__name__}, which would not get the affine there: "
                "put it into a TimeAsChannel (or TimeAsChanneld) of its own, and that into the Compose"
            )
        _refuse_torchio_inside(inner)


def _to_channels(img: Tensor) -> Tensor:
    # a copy, so that neither values nor meta of what was given can change
    return time_first(img).clone(memory_format=torch.contiguous_format)


def _for_torchio(img: Tensor) -> Any:
    import torchio

    kind = torchio.ScalarImage if img.is_floating_point() else torchio.LabelMap
    affine = grid_of(img).affine.numpy() if isinstance(img, MetaTensor) else None
    # it computes on the processor
    return kind(tensor=img.as_subclass(Tensor).cpu(), affine=affine)


def _from_torchio(result: Any, img: Tensor) -> Tensor:
    return with_meta(result.data.to(img.device, img.dtype), img, affine=torch.from_numpy(result.affine.copy()))
