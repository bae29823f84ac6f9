"""Which of the mask tokens of NeuroSTORM's autoencoder a net uses, and which one a file has trained."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from nstorm.nets.neurostorm_mae import PublishedMaskTokens
from nstorm.nets.weights.files import WeightFile
from nstorm.nets.weights.parts import Contents
from nstorm.nets.weights.published_keys import has_old_mask_token

_OF_SPATIAL_MASK = {"window": "window", "random": "single", "atlas": "atlas"}


def used_token(net: nn.Module) -> str | None:
    """The kind of token a net uses and learns; None if it has not the published three."""
    tokens = getattr(net, "mask_token", None)
    return tokens.kind if isinstance(tokens, PublishedMaskTokens) else None


def names_of_tokens(net: nn.Module, *, used: bool) -> list[str]:
    """Names in a net of the token it uses, or of those it does not."""
    kind = used_token(net)
    if kind is None:
        return []
    names = [name for name in net.state_dict() if name.startswith("mask_token.")]
    return [name for name in names if name.startswith(f"mask_token.{kind}.") == used]


def trained_token(file: WeightFile, contents: Contents, config: Mapping[str, Any]) -> str | None:
    """The kind of token that a file has trained; None if it does not say.

    Args:
        file: as it was read.
        contents: what is in it.
        config: published arguments that the user knows better.
    """
    if contents.published is None:
        return file.mask_token
    if has_old_mask_token(contents.published):
        return "window"
    mask = (file.hyper_parameters | dict(config)).get("spatial_mask")
    return _OF_SPATIAL_MASK.get(mask) if isinstance(mask, str) else None
