"""What array and dictionary forms of transforms share, so that each form is written once.

An array transform takes and gives a tensor. Its dictionary form takes ``keys`` and then the same arguments, and
applies one array transform to every key, a random one with the same draw for all of them.
"""

import inspect
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.transform import MapTransform, Randomizable, RandomizableTransform, Transform
from monai.utils.enums import TraceKeys, TransformBackends
from torch import Tensor

from nstorm.data.time.timing import with_meta


class BOLDTransform(Transform):
    """A transform of one run or clip, ``(T, H, W, D)`` or ``(1, H, W, D, T)``; what it is given stays as it is."""

    backend = [TransformBackends.TORCH]  # noqa: RUF012


class RandBOLDTransform(RandomizableTransform, BOLDTransform):
    """A transform that is applied with a probability, and whose parameters are drawn from ``self.R``.

    A subclass draws in :meth:`draw` and computes in :meth:`apply`. Where the transform is not applied, the result is
    the tensor that was given.

    Args:
        prob: Probability that the transform is applied.

    Raises:
        ValueError: ``prob`` is outside 0 to 1.
    """

    def __init__(self, prob: float = 1.0) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob is {prob}, but a probability lies between 0 and 1")
        super().__init__(prob)

    def draw(self, img: Tensor) -> None:
        """Draw the parameters for one image from ``self.R`` and keep them on ``self``."""
        raise NotImplementedError

    def apply(self, img: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Transform an image with the parameters drawn last."""
        raise NotImplementedError

    def randomize(self, data: Tensor) -> None:
        """Draw whether to apply the transform, and its parameters."""
        super().randomize(None)
        if self._do_transform:
            self.draw(data)

    def __call__(self, img: Tensor, randomize: bool = True, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """Draw parameters, unless told to use the last ones again, and transform the image."""
        if randomize:
            self.randomize(img)
        return self.apply(img, **kwargs) if self._do_transform else img


class InvertibleRandBOLDTransform(RandBOLDTransform, InvertibleTransform):
    """A random transform that can be undone, whether it was applied or not.

    A subclass says in :meth:`trace` what :meth:`undo` needs to know beside its arguments.
    """

    def trace(self, img: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Give what it takes to undo the transform of an image: numbers, strings and arrays."""
        return {}

    def undo(self, img: Tensor, trace: dict[str, Any]) -> Tensor:
        """Undo the transform."""
        raise NotImplementedError

    def __call__(self, img: Tensor, randomize: bool = True, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """Draw parameters, unless told to use the last ones again, transform the image and note how to undo it."""
        result = super().__call__(img, randomize, **kwargs)
        if isinstance(img, MetaTensor):
            # meta of its own, whose trace is not the given image's
            result = with_meta(result.as_subclass(Tensor), result)
            self.push_transform(result, orig_size=tuple(img.shape), extra_info=self.trace(img, **kwargs))
        return result

    def inverse(self, img: Tensor) -> Tensor:
        """Undo what was done to an image last."""
        noted = self.pop_transform(img)
        return self.undo(img, noted[TraceKeys.EXTRA_INFO]) if noted[TraceKeys.DO_TRANSFORM] else img


def entry(data: Mapping[Hashable, Any], key: Hashable, argument: str) -> Any:
    """Give what an item has under a key, which an argument of the transform names.

    Raises:
        KeyError: The item lacks the key.
    """
    if key not in data:
        raise KeyError(f"{argument} is {key!r}, but the item has only the keys {list(data)}")
    return data[key]


class OnKeys(MapTransform):
    """Base of dictionary forms: ``array_class`` on every key.

    Args:
        keys: Keys of the images.
        allow_missing_keys: Whether to pass over keys that an item lacks.
        args: Arguments of the array form.
        kwargs: Arguments of the array form.

    Raises:
        KeyError: An item lacks a key.
    """

    array_class: ClassVar[type[Transform]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "array_class" in vars(cls):
            own = list(inspect.signature(cls.__init__).parameters.values())[1:]
            inner = list(inspect.signature(cls.array_class).parameters.values())
            named = [parameter for parameter in own if parameter.kind is not inspect.Parameter.VAR_POSITIONAL]
            first, *others = [parameter for parameter in named if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
            cls.__signature__ = inspect.Signature([first, *inner, *others])  # type: ignore[attr-defined]

    def __init__(self, keys: KeysCollection, *args: Any, allow_missing_keys: bool = False, **kwargs: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = self.array_class(*args, **kwargs)

    def arguments(self, data: Mapping[Hashable, Any], key: Hashable) -> dict[str, Any]:
        """What the array form is called with beside the image of a key."""
        return {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform the images of all keys; the given dictionary stays as it is."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.transform(d[key], **self.arguments(data, key))
        return d


class OnKeysInMask(OnKeys):
    """Base of dictionary forms of transforms that work inside a mask.

    Args:
        mask_key: Key of a boolean mask ``(1, H, W, D)`` or ``(H, W, D)``. By default no mask is used.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *args: Any,
        mask_key: Hashable | None = None,
        allow_missing_keys: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(keys, *args, allow_missing_keys=allow_missing_keys, **kwargs)
        self.mask_key = mask_key

    def arguments(self, data: Mapping[Hashable, Any], key: Hashable) -> dict[str, Any]:
        """Give the mask of the item, which has to be there if it was asked for."""
        return {} if self.mask_key is None else {"mask": entry(data, self.mask_key, "mask_key")}


class InvertibleOnKeys(OnKeys, InvertibleTransform):
    """Base of dictionary forms of transforms that can be undone."""

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undo the transform on every key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.transform.inverse(d[key])  # type: ignore[attr-defined]
        return d


class RandOnKeys(OnKeys, Randomizable):
    """Base of dictionary forms of random transforms: one draw for all keys."""

    transform: RandBOLDTransform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> "RandOnKeys":
        """Set the source of randomness."""
        self.transform.set_random_state(seed, state)
        self.R = self.transform.R
        return self

    def randomize(self, data: Tensor) -> None:
        """Draw parameters for an image."""
        self.transform.randomize(data)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform the images of all keys with one draw; the given dictionary stays as it is."""
        d = dict(data)
        drawn = False
        for key in self.key_iterator(d):
            if not drawn:
                self.randomize(d[key])
                drawn = True
            d[key] = self.transform(d[key], randomize=False, **self.arguments(data, key))
        return d
