"""The arguments that a file keeps of nstorm's own nets, and nets built from them."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nstorm.nets.masked_autoencoder import MaskedAutoencoder
from nstorm.nets.neurostorm import NeuroSTORM
from nstorm.nets.neurostorm_mae import NeuroSTORMMAE
from nstorm.nets.shifted_window_net import ShiftedWindowNet
from nstorm.nets.swift import SwiFT
from nstorm.nets.weights.files import WeightFile
from nstorm.nets.weights.fit import differences
from nstorm.nets.weights.mask_tokens import used_token
from nstorm.nets.weights.masks_and_losses import built, described
from nstorm.nets.weights.parts import LINEAR_HEAD
from nstorm.nets.weights.recipe import Recipe

_ENCODERS: dict[str, type[nn.Module]] = {cls.__name__: cls for cls in (NeuroSTORM, ShiftedWindowNet, SwiFT)}
_AUTOENCODER = NeuroSTORMMAE.__name__
_OWN: dict[str, type[nn.Module]] = {
    **_ENCODERS,
    **{cls.__name__: cls for cls in (MaskedAutoencoder, NeuroSTORMMAE)},
}
_EXCHANGEABLE = ("mask", "loss")


def recipe_of(net: nn.Module) -> Recipe:
    """How to build a whole net again, which may not be known."""
    if isinstance(net, NeuroSTORMMAE):
        return _of_autoencoder(net)
    if type(net) is MaskedAutoencoder:
        return Recipe(MaskedAutoencoder.__name__, None, "it was made of parts, of which a file keeps only the encoder")
    recipe = _of_encoder(net)
    head = {name for name in net.state_dict() if name.startswith("head.")}
    if recipe.arguments is not None and head and head != LINEAR_HEAD:
        return Recipe(recipe.net, None, "its head is not a linear layer on the mean token")
    return recipe


def encoder_recipe_of(net: nn.Module) -> Recipe | None:
    """How to build the encoder of a net again, without a head; None if it is not known where the net has one."""
    if isinstance(net, MaskedAutoencoder):
        return _of_encoder(net.encoder)
    return _of_encoder(net) if _name_of(net) in _ENCODERS else None


def _name_of(net: nn.Module) -> str:
    cls = type(net)
    return cls.__name__ if _OWN.get(cls.__name__) is cls else f"{cls.__module__}.{cls.__qualname__}"


def _of_encoder(net: nn.Module) -> Recipe:
    name = _name_of(net)
    if name not in _ENCODERS:
        return Recipe(name, None, "its class is not one of nstorm's")
    arguments: dict[str, Any] = getattr(net, "arguments", {})
    # the weights tell the head
    kept = {key: value for key, value in arguments.items() if key != "num_classes"}
    return _checked(net, name, kept, getattr(net, "arguments_not_kept", ["arguments"]))


def _of_autoencoder(net: NeuroSTORMMAE) -> Recipe:
    name = _name_of(net)
    if name != _AUTOENCODER:
        return Recipe(name, None, "its class is not one of nstorm's")
    arguments: Any = net.arguments
    others: Any = net.arguments_not_kept
    kept, not_kept = dict(arguments), [key for key in others if key not in _EXCHANGEABLE]
    for key in _EXCHANGEABLE:
        # they may have been exchanged since
        try:
            kept[key] = described(net.get_submodule(key))
        except TypeError:
            not_kept.append(key)
    return _checked(net, name, kept, not_kept)


def _checked(net: nn.Module, name: str, arguments: dict[str, Any], not_kept: list[str]) -> Recipe:
    """A recipe that makes what the net is now."""
    if not_kept:
        return Recipe(name, None, f"its {' and '.join(not_kept)} cannot be written to a file")
    # through text, as they will come back
    if not _makes(net, build_own(name, json.loads(json.dumps(arguments)), used_token(net), "meta")):
        return Recipe(name, None, "it was changed after it was built")
    return Recipe(name, arguments)


def _makes(net: nn.Module, again: nn.Module) -> bool:
    """Whether a net built again has the places for the weights, not looking at heads."""
    given, wanted = (
        {name: value for name, value in module.state_dict().items() if not name.startswith("head.")}
        for module in (net, again)
    )
    found = differences(given, wanted)
    return not (found.missing or found.unexpected or found.shapes)


def build_own(
    name: str,
    arguments: Mapping[str, Any],
    mask_token: str | None = None,
    device: torch.device | str = "cpu",
    num_classes: int = 0,
) -> nn.Module:
    """Build one of nstorm's nets from arguments that a file kept, with the mask token in use that it learned."""
    with torch.device(device):
        if name == _AUTOENCODER:
            parts = {key: built(arguments[key]) for key in _EXCHANGEABLE if key in arguments}
            net = NeuroSTORMMAE(**{**arguments, **parts})
            # of the mask it was first built with, which may be another
            if mask_token is not None:
                net.get_submodule("mask_token").use(mask_token)  # type: ignore[operator]
            return net
        return _ENCODERS[name](**arguments, num_classes=num_classes)


def build_part(file: WeightFile, part: str, num_classes: int) -> nn.Module:
    """Build the net for a part of a file of `save_pretrained`.

    Raises:
        ValueError: if the file does not say how.
    """
    recipe, what = file.recipe, "net"
    if part == "encoder" and file.encoder is not None:
        recipe, what = file.encoder, "encoder"
    if recipe is None or recipe.arguments is None:
        why = f": {recipe.why_no_arguments}" if recipe and recipe.why_no_arguments else ""
        raise ValueError(f"{file.source} does not say how to build its {what}{why}; pass the net to load into as into=")
    if recipe.net not in (*_ENCODERS, _AUTOENCODER):
        raise ValueError(
            f"{file.source} is of the net {recipe.net!r}, which this version of nstorm does not have; pass the net to "
            "load into as into="
        )
    try:
        return build_own(recipe.net, recipe.arguments, file.mask_token, num_classes=num_classes)
    except TypeError as error:
        raise ValueError(
            f"{file.source} ({file.kind}) has arguments that this version of nstorm does not know: {error}; pass the "
            "net to load into as into="
        ) from error
