"""The arguments that a file keeps of nstorm's own nets, and nets built from them."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nstorm.nets.neurostorm import NeuroSTORM
from nstorm.nets.neurostorm_mae import NeuroSTORMMAE
from nstorm.nets.shifted_window_net import ShiftedWindowNet
from nstorm.nets.swift import SwiFT
from nstorm.nets.weights.files import WeightFile
from nstorm.nets.weights.fit import differences
from nstorm.nets.weights.masks_and_losses import built, described

ENCODERS: dict[str, type[nn.Module]] = {cls.__name__: cls for cls in (NeuroSTORM, ShiftedWindowNet, SwiFT)}
_AUTOENCODER = NeuroSTORMMAE.__name__
_EXCHANGEABLE = ("mask", "loss")


def name_of(net: nn.Module) -> str:
    """The name of a net's class: of nstorm's own without its module, and with it of all others."""
    cls = type(net)
    own = cls is NeuroSTORMMAE or ENCODERS.get(cls.__name__) is cls
    return cls.__name__ if own else f"{cls.__module__}.{cls.__qualname__}"


def arguments_of(net: nn.Module) -> tuple[dict[str, Any] | None, str]:
    """The arguments to build a net again, or None and why there are none.

    A net that is no longer what its arguments make has none, but for its head, which the weights tell.
    """
    name = name_of(net)
    if name not in (*ENCODERS, _AUTOENCODER):
        return None, "its class is not one of nstorm's"
    not_kept = list(getattr(net, "arguments_not_kept", ["arguments"]))
    arguments = {key: value for key, value in getattr(net, "arguments", {}).items() if key != "num_classes"}
    if name == _AUTOENCODER:
        # both may have been exchanged since
        for key in _EXCHANGEABLE:
            not_kept = [other for other in not_kept if other != key]
            try:
                arguments[key] = described(net.get_submodule(key))
            except TypeError:
                not_kept.append(key)
    if not_kept:
        return None, f"its {' and '.join(not_kept)} cannot be written to a file"
    # through text, as they will come back
    if not _makes(net, build_own(name, json.loads(json.dumps(arguments)), "meta")):
        return None, "it was changed after it was built"
    return arguments, ""


def _makes(net: nn.Module, again: nn.Module) -> bool:
    """Whether a net built again has the places for the weights, not looking at heads."""
    given, wanted = (
        {name: value for name, value in module.state_dict().items() if not name.startswith("head.")}
        for module in (net, again)
    )
    found = differences(given, wanted)
    tokens = [getattr(getattr(module, "mask_token", None), "kind", None) for module in (net, again)]
    return not (found.missing or found.unexpected or found.shapes) and tokens[0] == tokens[1]


def build_own(
    name: str, arguments: Mapping[str, Any], device: torch.device | str = "cpu", num_classes: int = 0
) -> nn.Module:
    """Build one of nstorm's nets from arguments that a file kept."""
    with torch.device(device):
        if name == _AUTOENCODER:
            parts = {key: built(arguments[key]) for key in _EXCHANGEABLE if key in arguments}
            return NeuroSTORMMAE(**{**arguments, **parts})
        return ENCODERS[name](**arguments, num_classes=num_classes)


def build_part(file: WeightFile, part: str, num_classes: int) -> nn.Module:
    """Build the net for a part of a file of `save_pretrained`.

    Raises:
        ValueError: if the file does not say how.
    """
    if file.net is None or file.arguments is None:
        why = f": {file.why_no_arguments}" if file.why_no_arguments else ""
        raise ValueError(f"{file.source} does not say how to build its net{why}; pass the net to load into as into=")
    if file.net not in (*ENCODERS, _AUTOENCODER):
        raise ValueError(
            f"{file.source} is of the net {file.net!r}, which this version of nstorm does not have; pass the net to "
            "load into as into="
        )
    name, arguments = file.net, file.arguments
    if name == _AUTOENCODER and part == "encoder":
        name = NeuroSTORM.__name__
        arguments = {key: value for key, value in arguments.items() if key not in _EXCHANGEABLE}
    try:
        return build_own(name, arguments, num_classes=num_classes)
    except TypeError as error:
        raise ValueError(
            f"{file.source} ({file.kind}) has arguments that this version of nstorm does not know: {error}; pass the "
            "net to load into as into="
        ) from error
