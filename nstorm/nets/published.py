"""Published models under nstorm's names: constructor arguments and state dicts converted, nothing guessed."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from nstorm.nets.neurostorm import NeuroSTORM
from nstorm.nets.swift import SwiFT

_KEYS = [
    (r"patch_embed\.fc\.(.+)", r"patch_embed.proj.\1"),
    (r"pos_embeds\.(\d+)\.pos_embed", r"stages.\1.position.spatial"),
    (r"pos_embeds\.(\d+)\.time_embed", r"stages.\1.position.temporal"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.(?:mamba|attn)\.(.+)", r"stages.\1.blocks.\2.mixer.\3"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.mlp\.linear([12])\.(.+)", r"stages.\1.blocks.\2.mlp.fc\3.\4"),
    (r"norm\.(weight|bias)", r"norm.\1"),
    (r"layers\.(\d+)\.(blocks\.\d+\.norm[12]\..+|downsample\..+)", r"stages.\1.\2"),
]

_ARGUMENTS = {
    "img_size": "img_size",
    "in_chans": "in_channels",
    "patch_size": "patch_size",
    "embed_dim": "feature_size",
    "depths": "depths",
    "window_size": "window_size",
    "first_window_size": "first_window_size",
    "last_layer_full_MSA": "full_last_stage",
    "c_multiplier": "channel_multiplier",
    "num_heads": "num_heads",
}


def _neurostorm(arguments: dict[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    # belongs to SwiFT and is passed to both published models
    arguments.pop("num_heads", None)
    return NeuroSTORM(**arguments)


def _swift(arguments: dict[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    return SwiFT(**arguments, final_norm="norm.weight" in state_dict)


_KINDS: dict[str, Callable[[dict[str, Any], Mapping[str, Tensor]], nn.Module]] = {
    "neurostorm": _neurostorm,
    "swift": _swift,
}


def _rename(key: str) -> str | None:
    for pattern, replacement in _KEYS:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, replacement, key)
    return None


def from_published(config: Mapping[str, Any], state_dict: Mapping[str, Tensor], kind: str) -> nn.Module:
    """Build a published model and load its weights.

    Args:
        config: constructor arguments under the published names (`embed_dim`, `last_layer_full_MSA`, ...).
        state_dict: the published model's own state dict, without a Lightning prefix.
        kind: `"neurostorm"` or `"swift"`, the encoders; SwiFT gets its final norm where the weights have one.

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
    if kind not in _KINDS:
        raise ValueError(f"kind {kind!r} is unknown; choose one of {sorted(_KINDS)}")
    unknown = sorted(set(config) - set(_ARGUMENTS))
    if unknown:
        raise ValueError(f"config has arguments that {kind!r} does not know: {unknown}")
    net = _KINDS[kind]({_ARGUMENTS[name]: value for name, value in config.items()}, state_dict)

    wanted = net.state_dict()
    renamed = {key: _rename(key) for key in state_dict}
    loaded = {new: state_dict[key] for key, new in renamed.items() if new is not None}
    problems = [f"missing {key}" for key in wanted if key not in loaded]
    for key, new in renamed.items():
        if new is None or new not in wanted:
            problems.append(f"unexpected {key}")
        elif state_dict[key].shape != wanted[new].shape:
            shapes = tuple(state_dict[key].shape), tuple(wanted[new].shape)
            problems.append(f"{key} has shape {shapes[0]}, expected {shapes[1]}")
    if problems:
        raise ValueError("the state dict does not fit the model: " + "; ".join(problems))
    net.load_state_dict(loaded)
    return net
