"""The arguments a net was built with, kept on it, so that a file of its weights can build it again."""

import inspect
from collections.abc import Mapping
from functools import wraps
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def keeps_arguments(cls: type[Net]) -> type[Net]:
    """Make a class of nets remember its constructor's arguments.

    A net gets two attributes: `arguments`, those that JSON can hold (tuples as lists), with defaults filled in; and
    `arguments_not_kept`, the names of all others, such as a mixer of one's own. Where one such class builds on
    another, they are those of the outermost constructor, the one that was called. Where that is a constructor without
    this decorator, its arguments are not known: none are kept, and `arguments_not_kept` names it.

    Example:
        >>> from torch import nn
        >>> from nstorm.nets.arguments import keeps_arguments
        >>> @keeps_arguments
        ... class Net(nn.Module):
        ...     def __init__(self, size, depth=2, activation=nn.ReLU, **kwargs):
        ...         super().__init__()
        >>> net = Net((4, 4), bias=False)
        >>> net.arguments, net.arguments_not_kept
        ({'size': [4, 4], 'depth': 2, 'bias': False}, [])
        >>> Net((4, 4), activation=nn.GELU).arguments_not_kept
        ['activation']
    """
    build = cls.__init__
    signature = inspect.signature(build)

    @wraps(build)
    def __init__(self: Net, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        build(self, *args, **kwargs)
        called = type(self).__init__
        # the outermost constructor ends last
        if called is __init__:
            kept, others = _kept(signature, signature.bind(self, *args, **kwargs))
        else:
            kept, others = {}, [f"arguments of {called.__qualname__}"]
        self.arguments, self.arguments_not_kept = kept, others  # type: ignore[assignment]

    cls.__init__ = __init__  # type: ignore[method-assign, assignment]
    return cls


def _kept(signature: inspect.Signature, call: inspect.BoundArguments) -> tuple[dict[str, Any], list[str]]:
    call.apply_defaults()
    kept: dict[str, Any] = {}
    others: list[str] = []
    for name, parameter in list(signature.parameters.items())[1:]:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            # they have no name to be given back under
            others += [name] if call.arguments[name] else []
            continue
        flattened = parameter.kind is inspect.Parameter.VAR_KEYWORD
        for key, value in (call.arguments[name] if flattened else {name: call.arguments[name]}).items():
            try:
                kept[key] = as_json(value)
            except TypeError:
                # a default need not be written down to be the same again
                if value is not parameter.default:
                    others.append(key)
    return kept, others


def as_json(value: Any) -> Any:
    """Bring a value to what JSON gives back: numbers, text, lists, also of tuples and arrays, dicts with text as keys.

    Raises:
        TypeError: if that cannot be done without a loss.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: as_json(item) for key, item in value.items()}
    raise TypeError(f"{type(value).__name__} has no counterpart in JSON")
