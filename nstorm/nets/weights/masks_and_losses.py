"""Masks and losses, which hold no weights, written as class and arguments."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from nstorm.layers import BlockMask, FrameMask, RandomMask, TubeMask, WindowMask
from nstorm.losses import MaskedReconstructionLoss
from nstorm.nets.arguments import as_json

_CLASSES: dict[str, type[nn.Module]] = {
    cls.__name__: cls for cls in (BlockMask, FrameMask, MaskedReconstructionLoss, RandomMask, TubeMask, WindowMask)
}


def described(module: nn.Module) -> dict[str, Any]:
    """Write a mask or loss as its class and the arguments of its constructor, which are attributes of it.

    Raises:
        TypeError: if it is of a class that is not known here, or has arguments that JSON cannot hold.

    Example:
        >>> from nstorm.layers import WindowMask
        >>> from nstorm.nets.weights.masks_and_losses import described
        >>> described(WindowMask(0.8))
        {'class': 'WindowMask', 'arguments': {'ratio': 0.8, 'window_size': [4, 4, 4, 4]}}
    """
    name = type(module).__name__
    if _CLASSES.get(name) is not type(module):
        raise TypeError(f"{name} is none of {sorted(_CLASSES)}")
    names = list(inspect.signature(type(module)).parameters)
    return {"class": name, "arguments": {name: as_json(getattr(module, name)) for name in names}}


def built(description: Mapping[str, Any]) -> nn.Module:
    """Build what `described` wrote.

    Raises:
        ValueError: if this version of nstorm has no such class.
    """
    if description["class"] not in _CLASSES:
        raise ValueError(f"{description['class']} is unknown: it is none of {sorted(_CLASSES)}")
    return _CLASSES[description["class"]](**description["arguments"])
