"""Published models under nstorm's names: constructor arguments and state dicts converted, nothing guessed."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn

from nstorm.nets.weights.fit import differences
from nstorm.nets.weights.parts import published_parts
from nstorm.nets.weights.published_arguments import build_published


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
    part = published_parts(state_dict, {key: key for key in state_dict})[
        "autoencoder" if kind == "neurostorm_mae" else "encoder"
    ]
    found = differences(part.tensors, net.state_dict())
    unexpected = {*part.unknown, *chain(*part.left_out.values()), *(part.keys[name] for name in found.unexpected)}
    problems = [
        *(f"missing {name}" for name in found.missing),
        *(f"unexpected {key}" for key in state_dict if key in unexpected),
        *(f"{part.keys[name]} has shape {was}, expected {now}" for name, (was, now) in found.shapes.items()),
    ]
    if problems:
        raise ValueError("the state dict does not fit the model: " + "; ".join(problems))
    net.load_state_dict(part.tensors)
    return net
