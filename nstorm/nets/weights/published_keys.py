"""The published names of weights, and nstorm's."""

import re
from collections.abc import Mapping

from torch import Tensor

_BLOCKS = [
    (r"{stages}\.(\d+)\.blocks\.(\d+)\.(?:mamba|attn)\.(.+)", r"stages.\1.blocks.\2.mixer.\3"),
    (r"{stages}\.(\d+)\.blocks\.(\d+)\.mlp\.linear([12])\.(.+)", r"stages.\1.blocks.\2.mlp.fc\3.\4"),
    (r"{stages}\.(\d+)\.(blocks\.\d+\.norm[12]\..+)", r"stages.\1.\2"),
]


def _blocks(stages: str, prefix: str = "") -> list[tuple[str, str]]:
    return [(pattern.replace("{stages}", stages), prefix + name) for pattern, name in _BLOCKS]


ENCODER = [
    (r"patch_embed\.fc\.(.+)", r"patch_embed.proj.\1"),
    (r"pos_embeds\.(\d+)\.pos_embed", r"stages.\1.position.spatial"),
    (r"pos_embeds\.(\d+)\.time_embed", r"stages.\1.position.temporal"),
    (r"norm\.(weight|bias)", r"norm.\1"),
    (r"layers\.(\d+)\.(downsample\..+)", r"stages.\1.\2"),
    *_blocks("layers"),
]

HEAD = [(r"output_head\.(?:head\.)*head\.(weight|bias)", r"head.linear.\1")]

DECODER = [
    (r"first_patch_expanding\.(.+)", r"decoder.expands.0.\1"),
    (r"norm_up\.(weight|bias)", r"decoder.norm.\1"),
    (r"decoder_pred\.(weight|bias)", r"decoder.unembed.proj.\1"),
    *_blocks("layers_up", "decoder."),
]


def renamed(key: str, names: list[tuple[str, str]]) -> str | None:
    """Give a published key nstorm's name; None if it has none."""
    for pattern, name in names:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, name, key)
    return None


def decoder_name(key: str) -> str | None:
    """Give a key of the published decoder nstorm's name; None if it is none."""
    if match := re.fullmatch(r"layers_up\.(\d+)\.upsample\.(.+)", key):
        return f"decoder.expands.{int(match[1]) + 1}.{match[2]}"
    return renamed(key, DECODER)


def mask_token_name(key: str, state_dict: Mapping[str, Tensor]) -> str | None:
    """Give a published mask token nstorm's name; None if it is none.

    The released files are older than the published code: their only `mask_token` has a vector for each place of a
    window, which is today's `window_mask_token`.
    """
    if key == "mask_token":
        return f"mask_token.{'window' if has_old_mask_token(state_dict) else 'single'}.value"
    if key in ("window_mask_token", "atlas_mask_token"):
        return f"mask_token.{key.removesuffix('_mask_token')}.value"
    return None


def has_old_mask_token(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether a published state dict is in the layout of the released files."""
    return "mask_token" in state_dict and state_dict["mask_token"].ndim == 2
