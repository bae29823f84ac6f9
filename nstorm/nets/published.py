"""Published models under nstorm's names: constructor arguments and state dicts converted, nothing guessed."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nstorm.nets.weights.fit import differences
from nstorm.nets.weights.published_arguments import build_published
from nstorm.nets.weights.published_keys import ENCODER, decoder_name, mask_token_name, renamed


def _rename(key: str) -> str | None:
    return renamed(key, ENCODER)


def _rename_autoencoder(key: str, state_dict: Mapping[str, Tensor]) -> str | None:
    encoder = _rename(key)
    return f"encoder.{encoder}" if encoder else decoder_name(key) or mask_token_name(key, state_dict)


def from_published(config: Mapping[str, Any], state_dict: Mapping[str, Tensor], kind: str) -> nn.Module:
    """Build a published model and load its weights; `load_pretrained` does it with whole files.

    Args:
        config: constructor arguments under the published names (`embed_dim`, `last_layer_full_MSA`, ...).
        state_dict: the published model's own state dict, without a Lightning prefix.
        kind: `"neurostorm"` or `"swift"`, the encoders; SwiFT gets its final norm where the weights have one. Or
            `"neurostorm_mae"`, the masked autoencoder, with the mask that `mask_ratio`, `spatial_mask` and `time_mask`
            mean.

    Raises:
        ValueError: if `kind` or an argument is unknown, or with the full list of keys that are missing, unexpected or
            of another shape. Nothing is loaded then.

    Example:
        >>> import torch
        >>> from nstorm.nets import from_published
        >>> from_published({"img_size": (24, 24, 24, 8), "depths": (1,)}, {}, kind="neurostorm")
        Traceback (most recent call last):
        ...
        ValueError: the state dict does not fit the model: ...
    """
    net = build_published(kind, config, state_dict)
    whole = kind == "neurostorm_mae"
    names = {key: _rename_autoencoder(key, state_dict) if whole else _rename(key) for key in state_dict}
    keys = {name: key for key, name in names.items() if name is not None}
    loaded = {name: state_dict[key] for name, key in keys.items()}
    found = differences(loaded, net.state_dict())
    unexpected = {key for key, name in names.items() if name is None} | {keys[name] for name in found.unexpected}
    problems = [
        *(f"missing {name}" for name in found.missing),
        *(f"unexpected {key}" for key in state_dict if key in unexpected),
        *(f"{keys[name]} has shape {was}, expected {now}" for name, (was, now) in found.shapes.items()),
    ]
    if problems:
        raise ValueError("the state dict does not fit the model: " + "; ".join(problems))
    net.load_state_dict(loaded)
    return net
