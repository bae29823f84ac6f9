"""What a file of weights holds, read without running anything that is in it."""

import argparse
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nstorm.nets.weights.recipe import Recipe
from nstorm.nets.weights.wording import listed

# the entry of a safetensors file's metadata that save_pretrained writes
METADATA = "nstorm"

# Besides tensors and plain containers. Each is a bag of values and is read as a harmless class of Python's own.
_ALLOWED: list[Any] = [
    argparse.Namespace,
    (dict, "lightning_fabric.utilities.data.AttributeDict"),
    (dict, "lightning.fabric.utilities.data.AttributeDict"),
    (dict, "pytorch_lightning.utilities.parsing.AttributeDict"),
    (pathlib.PurePosixPath, "pathlib.PosixPath"),
    (pathlib.PureWindowsPath, "pathlib.WindowsPath"),
]


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds.

    Attributes:
        source: where it came from, in words.
        sha256: of the file.
        kind: what sort of file it is, in words.
        tensors: the state dict, under the names of the file.
        others: names of the state dict that hold no tensor.
        hyper_parameters: of a Lightning file.
        recipe: how to build the net that a file of `save_pretrained` was written from.
        encoder: how to build its encoder, where that is something else.
        mask_token: which of the published mask tokens it learned, if it has them.
    """

    source: str
    sha256: str
    kind: str
    tensors: dict[str, Tensor]
    others: list[str] = field(default_factory=list)
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None
    encoder: Recipe | None = None
    mask_token: str | None = None

    @property
    def net(self) -> str | None:
        """Class of the net that a file of `save_pretrained` was written from."""
        return self.recipe.net if self.recipe else None

    @property
    def arguments(self) -> dict[str, Any] | None:
        """Arguments of that net, or if they could not be kept, of its encoder."""
        recipes = (recipe for recipe in (self.recipe, self.encoder) if recipe and recipe.arguments is not None)
        return next((recipe.arguments for recipe in recipes), None)


def read_weights(path: Path, source: str) -> WeightFile:
    """Read a file by its ending: `.safetensors`, or else what `torch.save` wrote.

    Raises:
        ValueError: if it is damaged, no such file, or holds objects that could run code.
    """
    with path.open("rb") as file:
        if b"git-lfs" in file.read(100):
            raise ValueError(f"{source} is a pointer of Git LFS and not the weights: fetch them with `git lfs pull`")
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if path.suffix == ".safetensors":
        return _safetensors(path, source, sha256)
    return _torch(path, source, sha256)


def _safetensors(path: Path, source: str, sha256: str) -> WeightFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(metadata.get(METADATA, "{}"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{source} is damaged or not in the safetensors format: {error}") from error
    return WeightFile(
        source=source,
        sha256=sha256,
        kind=f"nstorm {about['version']}, {about['net']}" if about else "safetensors",
        tensors=tensors,
        recipe=_recipe(about),
        encoder=_recipe(about.get("encoder")),
        mask_token=about.get("mask_token"),
    )


def _recipe(about: Mapping[str, Any] | None) -> Recipe | None:
    if not about:
        return None
    return Recipe(about["net"], about.get("arguments"), about.get("why_no_arguments", ""))


def _torch(path: Path, source: str, sha256: str) -> WeightFile:
    # what is allowed already must still be afterwards
    before = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([item for item in _ALLOWED if item not in before]):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            # a damaged file can fail in any way; that it may be read was seen before
            if refused := _refused(path, error):
                raise ValueError(
                    f"{source} holds more than weights, and nothing was read because that could run code: "
                    f"{listed(refused)}; on a machine that trusts it, read it with torch.load(weights_only=False), "
                    "and save a dict of nothing but its state_dict and its hyper_parameters"
                ) from error
            raise ValueError(
                f"{source} is damaged or no file of weights: it has to be as torch.save writes it (.ckpt, .pt, .pth), "
                "or end in .safetensors"
            ) from error
    state_dict = _state_dict(content, source)
    hyper_parameters = content.get("hyper_parameters", {}) if isinstance(content, Mapping) else {}
    if isinstance(hyper_parameters, argparse.Namespace):
        hyper_parameters = vars(hyper_parameters)
    lightning = isinstance(content, Mapping) and "pytorch-lightning_version" in content
    return WeightFile(
        source=source,
        sha256=sha256,
        kind="Lightning checkpoint" if lightning or hyper_parameters else "state dict",
        tensors={name: value.detach() for name, value in state_dict.items() if isinstance(value, Tensor)},
        others=[name for name, value in state_dict.items() if not isinstance(value, Tensor)],
        hyper_parameters=dict(hyper_parameters) if isinstance(hyper_parameters, Mapping) else {},
    )


def _state_dict(content: Any, source: str) -> Mapping[str, Any]:
    """The state dict itself, or the one entry of a checkpoint that is one."""
    if _is_state_dict(content):
        return content
    entries = content if isinstance(content, Mapping) else {}
    # in a Lightning file, metrics may have left a state that is no tensor in it
    lightning = entries.get("state_dict")
    if isinstance(lightning, Mapping) and lightning and all(isinstance(name, str) for name in lightning):
        return lightning
    found = [str(name) for name, value in entries.items() if _is_state_dict(value)]
    if len(found) == 1:
        return entries[found[0]]
    wrong = f"{len(found)} ({listed(found)})" if found else "none"
    raise ValueError(
        f"{source} has to hold one state dict, by itself or as an entry of a dict, but it holds {wrong}: save a dict "
        "of nothing but the 'state_dict' of the net (and its 'hyper_parameters')"
    )


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(item, Tensor) for name, item in value.items())
    )


def _refused(path: Path, error: Exception) -> list[str]:
    """The classes and functions in a file that `torch.load` would not call."""
    named = set(
        re.findall(r"GLOBAL (\S+) was not|GLOBAL (\S+) whose|reduce for unrecognized function (\S+)", str(error))
    )
    refused = {name for match in named for name in match if name}
    # of files in the format before 2020, and of damaged ones, there is no list; the file is refused all the same
    with suppress(Exception):
        refused |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    return sorted(refused)
