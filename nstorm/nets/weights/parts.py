"""The parts of a file of weights that a net can be made of, under the names of that net."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from nstorm.nets.weights.files import WeightFile
from nstorm.nets.weights.published_keys import (
    ENCODER,
    HEAD,
    decoder_name,
    has_old_mask_token,
    mask_token_name,
    renamed,
)

LINEAR_HEAD = {"head.linear.weight", "head.linear.bias"}


@dataclass
class Part:
    """What of a file makes up one net.

    Attributes:
        tensors: under the names of the net.
        keys: what the file calls them.
        unknown: what the file has in this part and nstorm has no name for.
        left_out: what the file has besides, by what it is.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def put(self, name: str | None, key: str, tensor: Tensor) -> None:
        """Add what the file calls `key`."""
        if name is None:
            self.unknown.append(key)
        else:
            self.tensors[name], self.keys[name] = tensor, key

    def leave_out(self, what: str, keys: Iterable[str]) -> None:
        """Note what is not of this part."""
        if found := list(keys):
            self.left_out[what] = self.left_out.get(what, []) + found


@dataclass(frozen=True)
class Contents:
    """A file of weights taken apart.

    Attributes:
        layout: how its weights are laid out, in words.
        parts: by name.
        default: the part to take where none is asked for.
        published: the published state dict, without a prefix; None if the names are nstorm's already.
    """

    layout: str
    parts: dict[str, Part]
    default: str
    published: dict[str, Tensor] | None = None


def best_part(parts: Mapping[str, Part], wanted: Collection[str]) -> str:
    """The part that has most of the names that a net wants; of several, the smallest."""
    return max(parts, key=lambda name: (len(parts[name].tensors.keys() & wanted), -len(parts[name].tensors)))


def take_apart(file: WeightFile) -> Contents:
    """Sort what a file holds into parts."""
    own, keys, others = _unwrapped(file)
    contents = (_published if "patch_embed.fc.weight" in own else _own)(file, own, keys)
    for part in contents.parts.values():
        part.leave_out("beside the net", others)
        part.leave_out("no tensors", file.others)
    return contents


def _unwrapped(file: WeightFile) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Names without what torch.compile, parallel training and Lightning put before them.

    Returns:
        The tensors; their names in the file; names in the file of what is beside the net.
    """
    keys = {key: key for key in file.tensors}
    others: list[str] = []
    # save_pretrained puts nothing before them
    if file.net is None:
        keys = {key.replace("_orig_mod.", ""): own for key, own in keys.items()}
        if all(key.startswith("module.") for key in keys):
            keys = {key.removeprefix("module."): own for key, own in keys.items()}
        if any(key.startswith("model.") for key in keys) and not any(key.startswith("patch_embed.") for key in keys):
            net = {key: own for key, own in keys.items() if key.startswith(("model.", "output_head."))}
            others = [own for key, own in keys.items() if key not in net]
            keys = {key.removeprefix("model."): own for key, own in net.items()}
    return {key: file.tensors[own] for key, own in keys.items()}, keys, others


def published_parts(own: Mapping[str, Tensor], keys: Mapping[str, str]) -> dict[str, Part]:
    """Sort a published state dict into the parts of nets; an autoencoder may be without a decoder, and lacks it then.

    Args:
        own: the state dict, without a prefix.
        keys: what its file calls the weights.
    """
    is_decoder = re.compile(r"(first_patch_expanding|layers_up|norm_up|decoder_pred)\.").match
    encoder, decoder, tokens, head = Part(), Part(), Part(), Part()
    for key, tensor in own.items():
        if key.startswith("output_head."):
            head.put(renamed(key, HEAD), keys[key], tensor)
        elif key.endswith("mask_token"):
            tokens.put(mask_token_name(key, own), keys[key], tensor)
        elif is_decoder(key):
            decoder.put(decoder_name(key), keys[key], tensor)
        else:
            encoder.put(renamed(key, ENCODER), keys[key], tensor)

    parts = {"encoder": _joined(encoder, head=head, decoder=decoder, mask_tokens=tokens)}
    if head.tensors.keys() == LINEAR_HEAD and not head.unknown:
        parts["classifier"] = _joined(encoder, head, decoder=decoder, mask_tokens=tokens)
    whole = Part(
        {f"encoder.{name}": tensor for name, tensor in encoder.tensors.items()},
        {f"encoder.{name}": key for name, key in encoder.keys.items()},
        encoder.unknown,
    )
    parts["autoencoder"] = _joined(whole, decoder, tokens, head=head)
    return parts


def _published(file: WeightFile, own: dict[str, Tensor], keys: dict[str, str]) -> Contents:
    parts = published_parts(own, keys)
    if not any(name.startswith("decoder.") for name in parts["autoencoder"].tensors):
        del parts["autoencoder"]
    layout = f"{file.kind} under published names"
    if has_old_mask_token(own):
        layout += ", old layout: one mask_token per window position"
    return Contents(layout, parts, "encoder", own)


def _joined(*taken: Part, **left: Part) -> Part:
    joined = Part()
    for part in taken:
        joined.tensors |= part.tensors
        joined.keys |= part.keys
        joined.unknown += part.unknown
    for what, part in left.items():
        joined.leave_out(what.replace("_", " "), [*part.keys.values(), *part.unknown])
    return joined


def _own(file: WeightFile, own: dict[str, Tensor], keys: dict[str, str]) -> Contents:
    """Parts of a file under nstorm's names, or those of a net of the user's own."""
    parts = {}
    if "patch_embed.proj.weight" in own:
        parts["encoder"] = _under(own, keys, "")
        if {key for key in own if key.startswith("head.")} == LINEAR_HEAD:
            parts["classifier"] = _whole(own, keys)
    elif "encoder.patch_embed.proj.weight" in own:
        parts["encoder"] = _under(own, keys, "encoder.")
        if any(key.startswith("decoder.") for key in own):
            parts["autoencoder"] = _whole(own, keys)
    parts["net"] = _whole(own, keys)
    # the net of a class that is not nstorm's is not looked into, unless that is asked for
    known = file.net is None or file.encoder is not None or "." not in file.net
    return Contents(file.kind, parts, "encoder" if known and "encoder" in parts else "net")


def _whole(own: dict[str, Tensor], keys: dict[str, str]) -> Part:
    return Part(dict(own), dict(keys))


def _under(own: dict[str, Tensor], keys: dict[str, str], prefix: str) -> Part:
    """The encoder under `prefix`, without a head."""
    part = Part()
    for key, tensor in own.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and re.match(r"(patch_embed|stages|norm)\.", name):
            part.put(name, keys[key], tensor)
        else:
            outer = key.split(".")[0]
            part.leave_out(outer.replace("_", " ") if outer != "encoder" else "head", [keys[key]])
    return part
