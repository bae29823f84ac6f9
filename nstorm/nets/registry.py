"""Named models."""

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

from torch import nn

_MODELS: dict[str, Callable[..., nn.Module]] = {}


def register_model(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Register a function that makes a model, under the function's name."""
    if make.__name__ in _MODELS:
        raise ValueError(f"a model named {make.__name__!r} is registered already")
    _MODELS[make.__name__] = make
    return make


def list_models(pattern: str = "*") -> list[str]:
    """List the names of the registered models that match a shell-style pattern.

    Example:
        >>> from nstorm.nets import list_models
        >>> list_models("neurostorm*")
        ['neurostorm_base']
    """
    return sorted(name for name in _MODELS if fnmatch(name, pattern))


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """Make a registered model; keyword arguments override its own.

    Raises:
        ValueError: if no model has this name.

    Example:
        >>> from nstorm.nets import create_model
        >>> net = create_model("neurostorm_base", img_size=(48, 48, 48, 8), num_classes=7)
        >>> net.num_features
        288
    """
    if name not in _MODELS:
        raise ValueError(f"model {name!r} is unknown; choose one of {list_models()}")
    return _MODELS[name](**kwargs)
