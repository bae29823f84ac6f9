"""The published constructor arguments: nstorm's names, what the weights say of them, and nets built from them."""

import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor, nn

from nstorm.layers import RandomMask, WindowMask
from nstorm.nets.neurostorm import NeuroSTORM
from nstorm.nets.neurostorm_mae import NeuroSTORMMAE
from nstorm.nets.swift import SwiFT

ARGUMENTS = {
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
MASK_ARGUMENTS = ("mask_ratio", "spatial_mask", "time_mask")

# neither the weights nor a default tell what these were
_NEEDED = ("patch_size", "window_size", "first_window_size", "last_layer_full_MSA")
_WITH_FOUR = ("patch_size", "window_size", "first_window_size")


def build_published(kind: str, config: Mapping[str, Any], state_dict: Mapping[str, Tensor], **more: Any) -> nn.Module:
    """Build a net from published arguments.

    Args:
        kind: `"neurostorm"`, `"swift"` or `"neurostorm_mae"`.
        config: constructor arguments under the published names.
        state_dict: the weights that the net is for, under the published names.
        more: arguments of the net besides.

    Raises:
        ValueError: if the kind or an argument is unknown.
    """
    if kind not in _NETS:
        raise ValueError(f"kind {kind!r} is unknown; choose one of {sorted(_NETS)}")
    known = (*ARGUMENTS, *MASK_ARGUMENTS) if kind == "neurostorm_mae" else tuple(ARGUMENTS)
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise ValueError(f"config has arguments that {kind!r} does not know: {unknown}")
    arguments = {ARGUMENTS[name]: value for name, value in config.items() if name in ARGUMENTS}
    return _NETS[kind](arguments | more, config, state_dict)


def _neurostorm(arguments: dict[str, Any], config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    # belongs to SwiFT and is passed to both published models
    arguments.pop("num_heads", None)
    return NeuroSTORM(**arguments)


def _swift(arguments: dict[str, Any], config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    return SwiFT(**arguments, final_norm="norm.weight" in state_dict)


def _autoencoder(arguments: dict[str, Any], config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    arguments.pop("num_heads", None)
    return NeuroSTORMMAE(**arguments, mask=_mask(config))


_NETS: dict[str, Callable[[dict[str, Any], Mapping[str, Any], Mapping[str, Tensor]], nn.Module]] = {
    "neurostorm": _neurostorm,
    "neurostorm_mae": _autoencoder,
    "swift": _swift,
}


def _mask(config: Mapping[str, Any]) -> nn.Module | None:
    """The mask that the published arguments mean; None, for the default, where they say nothing of it."""
    if not any(name in config for name in MASK_ARGUMENTS):
        return None
    missing = [name for name in MASK_ARGUMENTS if name not in config]
    if missing:
        raise ValueError(f"the mask needs {', '.join(missing)} besides its other arguments: pass them in config")
    ratio, space, time = (config[name] for name in MASK_ARGUMENTS)
    if (space, time) == ("window", "random"):
        return WindowMask(ratio, config.get("window_size", (4, 4, 4, 4)))
    if (space, time) == ("random", "random"):
        return RandomMask(ratio)
    raise ValueError(
        f"spatial_mask {space!r} with time_mask {time!r} has no counterpart that these arguments could build: pass "
        "'window' or 'random' with 'random' in config, or load into a NeuroSTORMMAE with the mask you want"
    )


def complete_config(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Any], list[str]]:
    """Take what the published arguments need from the weights where they can tell, and check the rest against them.

    Args:
        config: constructor arguments under the published names; others are left out.
        state_dict: the weights, under the published names.
        source: the file's name in messages.

    Returns:
        The arguments, and the names of those that were not among them and come from the weights.

    Raises:
        ValueError: if arguments are missing that the weights cannot tell, or contradict the weights.
    """
    known = {name: value for name, value in config.items() if name in (*ARGUMENTS, *MASK_ARGUMENTS)}
    swift = kind_of(state_dict) == "swift"
    missing = [name for name in (*_NEEDED, *(["num_heads"] if swift else [])) if name not in known]
    if missing:
        raise ValueError(
            f"{source} does not say {', '.join(missing)}, which its weights cannot tell either: pass them as config="
            f"{{{missing[0]!r}: ...}}, or a net to load into as into="
        )
    if not isinstance(known["last_layer_full_MSA"], (bool, int)):
        raise ValueError(
            f"{source} has last_layer_full_MSA {known['last_layer_full_MSA']!r}, which is neither True nor False: pass "
            "the right one as config={'last_layer_full_MSA': ...}"
        )
    short = [name for name in ("img_size", *_WITH_FOUR) if name in known and not _has_four(known[name])]
    if short:
        raise ValueError(
            f"{source} has {short[0]} {_plain(known[short[0]])}, which must have four entries, h, w, d, t: pass the "
            f"right one as config={{{short[0]!r}: ...}}"
        )
    told = _told_by_weights(state_dict, known["patch_size"])
    wrong = [
        f"{name} {_plain(known[name])} for weights of {_plain(value)}"
        for name, value in told.items()
        if name in known and not _agree(name, known[name], value, known["patch_size"])
    ]
    if wrong:
        raise ValueError(
            f"{source} contradicts itself: {'; '.join(wrong)}; pass the right ones as config=, or, to load weights "
            "into a net for another grid, that net as into="
        )
    inferred = [name for name in told if name not in known]
    return known | {name: told[name] for name in inferred}, inferred


def kind_of(state_dict: Mapping[str, Tensor]) -> str:
    """Which of the published encoders a state dict is of."""
    return "swift" if any(".attn." in key for key in state_dict) else "neurostorm"


def _told_by_weights(state_dict: Mapping[str, Tensor], patch_size: Sequence[int]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    depths: dict[int, int] = {}
    for key in state_dict:
        if match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", key):
            stage, block = int(match[1]), int(match[2])
            depths[stage] = max(depths.get(stage, 0), block + 1)
    if depths:
        told["depths"] = tuple(depths.get(stage, 0) for stage in range(max(depths) + 1))
    if (patch := state_dict.get("patch_embed.fc.weight")) is not None:
        told["embed_dim"] = patch.shape[0]
        told["in_chans"] = patch.shape[1] // prod(patch_size)
    first, second = (state_dict.get(f"pos_embeds.{stage}.pos_embed") for stage in range(2))
    frames = state_dict.get("pos_embeds.0.time_embed")
    if first is not None and second is not None:
        told["c_multiplier"] = second.shape[1] // first.shape[1]
    if first is not None and frames is not None:
        grid = (*first.shape[2:5], frames.shape[-1])
        told["img_size"] = tuple(cells * patch for cells, patch in zip(grid, patch_size, strict=True))
    return told


def _agree(name: str, value: Any, told: Any, patch_size: Sequence[int]) -> bool:
    if name == "img_size":
        # a patch at the end may be cut off
        return [-(-size // patch) for size, patch in zip(value, patch_size, strict=True)] == [
            size // patch for size, patch in zip(told, patch_size, strict=True)
        ]
    return bool(_plain(value) == _plain(told))


def _has_four(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 4


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) else value
