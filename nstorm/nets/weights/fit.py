"""Whether weights fit a net, and their way into it: all of them or none."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from nstorm.layers import resize_position_embeddings
from nstorm.nets.weights.wording import listed


@dataclass(frozen=True)
class Fit:
    """Weights that fit a net.

    Attributes:
        state_dict: all that the net has.
        loaded: names of what comes from the file.
        new: names of what the net keeps.
        zeroed: names of what is in neither and becomes 0.
        reshaped: shapes in the file and in the net of what was resized.
    """

    state_dict: dict[str, Any]
    loaded: list[str]
    new: list[str]
    zeroed: list[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class Differences:
    """In what a state dict does not fit a net.

    Attributes:
        missing: names that only the net has.
        unexpected: names that only the state dict has.
        shapes: of names that differ in it: that in the state dict and that in the net.
    """

    missing: list[str]
    unexpected: list[str]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def differences(given: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> Differences:
    """Compare a state dict with that of a net."""
    shapes = {
        name: (tuple(value.shape), tuple(wanted[name].shape))
        for name, value in given.items()
        if isinstance(wanted.get(name), Tensor) and value.shape != wanted[name].shape
    }
    return Differences(
        [name for name in wanted if name not in given],
        [name for name in given if not isinstance(wanted.get(name), Tensor)],
        shapes,
    )


def unwrapped(net: nn.Module) -> nn.Module:
    """The net itself, of one that torch.compile or parallel training have wrapped."""
    while True:
        if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            net = net.module
        elif "_orig_mod" in net._modules:
            net = net.get_submodule("_orig_mod")
        else:
            return net


def fit(
    tensors: Mapping[str, Tensor],
    keys: Mapping[str, str],
    unknown: Sequence[str],
    net: nn.Module,
    source: str,
    *,
    new: Sequence[str] = (),
    may_be_zero: Collection[str] = (),
    untrained: Collection[str] = (),
    elsewhere: Mapping[str, str] | None = None,
    resize: bool = False,
) -> Fit:
    """Check that weights are what a net needs; nothing is loaded yet.

    Args:
        tensors: under the names of the net.
        keys: what the file calls them.
        unknown: what the file calls weights of this part that nstorm has no name for.
        net: to load into.
        source: the file's name in messages.
        new: patterns of names in the net that the file need not have.
        may_be_zero: names in the net that the file need not have, because they do not matter.
        untrained: names of what the file has at random values, which count as not there.
        elsewhere: names of what other parts of the file have, and the part.
        resize: bring position embeddings to the net's grids.

    Raises:
        ValueError: with all that does not fit.
    """
    wanted = net.state_dict()
    if any(isinstance(value, Tensor) and value.is_meta for value in wanted.values()):
        raise ValueError(f"{type(net).__name__} is on the meta device and can hold no weights: call to_empty first")
    tensors = {name: value for name, value in tensors.items() if name not in untrained}
    given, reshaped = _resized(tensors, net, wanted) if resize else (dict(tensors), {})
    found = differences(given, wanted)
    kept = [name for name in found.missing if any(fnmatchcase(name, pattern) for pattern in new)]
    zeroed = [name for name in found.missing if name in may_be_zero and name not in kept]
    missing = [name for name in found.missing if name not in (*kept, *zeroed)]
    unexpected = [*(keys.get(name, name) for name in found.unexpected), *unknown]

    problems = _lacking(missing, untrained, elsewhere or {})
    if unexpected:
        problems.append(f"the net has no place for {listed(unexpected)}")
    if found.shapes:
        shapes = [f"{name} {was} for {now}" for name, (was, now) in found.shapes.items()]
        problems.append(f"shapes differ, in the file and in the net: {listed(shapes)}")
    if problems:
        raise ValueError(f"{source} does not fit {type(net).__name__}, and nothing was loaded: {'; '.join(problems)}")
    empty = {name: torch.zeros_like(wanted[name], dtype=_type_of(given, wanted[name])) for name in zeroed}
    rest = {name: wanted[name] for name in kept}
    return Fit(given | rest | empty, list(given), kept, zeroed, reshaped)


def _lacking(missing: Sequence[str], untrained: Collection[str], elsewhere: Mapping[str, str]) -> list[str]:
    """What is missing, by what can be done about it."""
    stay = "(name in new=... what is to stay as the net has it)"
    problems = []
    if random := [name for name in missing if name in untrained]:
        problems.append(f"{listed(random)} of the file was never trained {stay}")
    parts = {name: elsewhere[name] for name in missing if name in elsewhere and name not in untrained}
    for part in dict.fromkeys(parts.values()):
        names = [name for name, other in parts.items() if other == part]
        problems.append(f"this part of the file lacks {listed(names)} (pass part={part!r}, which has that)")
    if rest := [name for name in missing if name not in untrained and name not in parts]:
        problems.append(f"the file lacks {listed(rest)} {stay}")
    return problems


def _resized(
    given: Mapping[str, Tensor], net: nn.Module, wanted: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
    # others differ in more than their grid, and are found out below
    same_kind = {
        name: value
        for name, value in given.items()
        if isinstance(wanted.get(name), Tensor) and value.ndim == 6 and value.shape[:2] == wanted[name].shape[:2]
    }
    resized = resize_position_embeddings(same_kind, net)
    reshaped = {
        name: (tuple(given[name].shape), tuple(value.shape))
        for name, value in resized.items()
        if value.shape != given[name].shape
    }
    return dict(given) | {name: resized[name] for name in reshaped}, reshaped


def _type_of(given: Mapping[str, Tensor], like: Tensor) -> torch.dtype:
    """The type that most weights have, for one that is made."""
    return next((value.dtype for value in given.values() if value.is_floating_point()), like.dtype)
