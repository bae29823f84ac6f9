"""Nets with weights from a file or the hub, and files of a net's weights."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nstorm.nets.weights.files import METADATA, WeightFile, read_weights
from nstorm.nets.weights.fit import fit, unwrapped
from nstorm.nets.weights.hub import locate
from nstorm.nets.weights.mask_tokens import names_of_tokens, trained_token, used_token
from nstorm.nets.weights.own_arguments import build_part, encoder_recipe_of, recipe_of
from nstorm.nets.weights.parts import Contents, best_part, take_apart
from nstorm.nets.weights.published_arguments import (
    ARGUMENTS,
    MASK_ARGUMENTS,
    build_published,
    complete_config,
    kind_of,
)
from nstorm.nets.weights.report import LoadingReport
from nstorm.nets.weights.wording import listed


def load_pretrained(
    source: str | os.PathLike[str],
    part: str | None = None,
    *,
    into: nn.Module | None = None,
    new: str | Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
    filename: str | None = None,
    device: torch.device | str | None = None,
) -> tuple[nn.Module, LoadingReport]:
    """Build a net with the weights of a file, or load them into a net of one's own.

    Reads files of `save_pretrained`; the released Lightning checkpoints of NeuroSTORM and SwiFT, pre-trained in the
    layout of today or the older one, or fine-tuned; and state dicts as `torch.save` writes them. Nothing that is in a
    file is run. Weights are loaded all or not at all, and nothing is left at random values that was not named as `new`.

    Args:
        source: path of a file, or a repository on the Hugging Face hub as `"owner/name"` (`"hf://owner/name"` where a
            path has the same name).
        part: `"encoder"`, the backbone without a head; `"classifier"`, with the head of the file, which for a binary
            label has one logit as published; `"autoencoder"`, a `NeuroSTORMMAE`; `"net"`, all of what
            `save_pretrained` wrote. If None, the encoder, or `"net"` where the file is of a class that is not nstorm's;
            with `into`, the part that has most of the net's names, and the smallest of several.
        into: the net to load into, in place, instead of one that is built. Its position embeddings may be for another
            grid or longer clips: those of the file are then resized, see `resize_position_embeddings`. Values take
            the net's type and device.
        new: pattern or patterns, such as `"head.*"`, of what `into` has and the file or its part lacks: it stays as it
            is. A mask token that the file holds and did not train counts as lacking.
        config: published arguments that a released file does not give, or gives wrongly, such as
            `{"first_window_size": (4, 4, 4, 4)}`.
        revision: branch, tag or commit on the hub.
        filename: file in the repository, `"model.safetensors"` if None, or in a folder.
        device: where a net that is built lives; the CPU if None. It has the type of the file's weights.

    Returns:
        The net, in training mode if it was built here, and what became of all that the file holds.

    Raises:
        FileNotFoundError: if there is no such file, repository or revision.
        ConnectionError: if the hub is not reached.
        PermissionError: if the hub keeps the file from this user.
        ValueError: if the file cannot be read or has no such part, its weights do not fit the net, or arguments do not
            go together.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from nstorm.nets import NeuroSTORM, load_pretrained, save_pretrained
        >>> trained = NeuroSTORM((24, 24, 24, 8), feature_size=12, depths=(1, 1))
        >>> net = NeuroSTORM((36, 30, 36, 8), feature_size=12, depths=(1, 1), num_classes=2)
        >>> with TemporaryDirectory() as folder:
        ...     path = save_pretrained(trained, Path(folder) / "trained.safetensors")
        ...     same, _ = load_pretrained(path)
        ...     net, report = load_pretrained(path, into=net, new="head.*")
        >>> report.new
        ('head.linear.weight', 'head.linear.bias')
        >>> report.reshaped["stages.0.position.spatial"]
        ((1, 12, 4, 4, 4, 1), (1, 12, 6, 5, 6, 1))
    """
    if into is None and new:
        raise ValueError(
            f"new={new!r} is for a net to load into: a net that is built has all its weights from the file"
        )
    if into is not None and (config is not None or device is not None):
        raise ValueError("config and device are for a net that is built here: with into= leave them out")
    file = read_weights(*locate(source, revision, filename))
    contents = take_apart(file)
    patterns = (new,) if isinstance(new, str) else tuple(new)
    if part is None:
        part = contents.default if into is None else _part_for(unwrapped(into), contents, patterns)
    elif part not in contents.parts:
        raise ValueError(_no_such_part(file, contents, part))

    chosen, others = contents.parts[part], {name: other for name, other in contents.parts.items() if name != part}
    inferred: Sequence[str] = ()
    if into is None:
        # weights replace what is drawn at random, and the user's random numbers go on as though none had been
        with torch.random.fork_rng(devices=[]):
            net, inferred = _build(file, contents, part, config or {})
    else:
        net = unwrapped(into)
    trained = trained_token(file, contents, config or {})
    in_use = [name for name in names_of_tokens(net, used=True) if name in chosen.tensors]
    untrained = in_use if trained not in (None, used_token(net)) else []
    fitted = fit(
        chosen.tensors,
        chosen.keys,
        chosen.unknown,
        net,
        file.source,
        new=patterns,
        may_be_zero=names_of_tokens(net, used=False),
        untrained=untrained,
        elsewhere={name: other for other in reversed(others) for name in others[other].tensors},
        resize=into is not None,
    )
    if into is None:
        # a copy, because tensors of a file may share memory
        own = {name: value.clone() for name, value in fitted.state_dict.items()}
        net.load_state_dict(own, assign=True)
        net.to(device)
    else:
        net.load_state_dict(fitted.state_dict)
    left_out = {what: tuple(names) for what, names in chosen.left_out.items()}
    if untrained:
        left_out["mask token that was not trained"] = tuple(chosen.keys[name] for name in untrained)
    report = LoadingReport(
        source=file.source,
        sha256=file.sha256,
        layout=contents.layout,
        part=part,
        loaded=tuple(fitted.loaded),
        num_values=sum(fitted.state_dict[name].numel() for name in fitted.loaded),
        reshaped=fitted.reshaped,
        left_out=left_out,
        new=tuple(fitted.new),
        zeroed=tuple(fitted.zeroed),
        perhaps_untrained=tuple(in_use) if trained is None else (),
        hyper_parameters=file.hyper_parameters or file.arguments or {},
        inferred=tuple(inferred),
    )
    return (net if into is None else into), report


def _part_for(net: nn.Module, contents: Contents, new: Sequence[str]) -> str:
    names = [name for name in net.state_dict() if not any(fnmatchcase(name, pattern) for pattern in new)]
    return best_part(contents.parts, names)


def _no_such_part(file: WeightFile, contents: Contents, part: str) -> str:
    message = f"{file.source} has no part {part!r}; it has: {', '.join(map(repr, contents.parts))}"
    if part == "classifier" and (head := contents.parts[contents.default].left_out.get("head")):
        message += f" (its head is not a linear layer on the mean token, but {listed(head)})"
    return message


def _build(
    file: WeightFile, contents: Contents, part: str, config: Mapping[str, Any]
) -> tuple[nn.Module, Sequence[str]]:
    head = contents.parts[part].tensors.get("head.linear.weight")
    num_classes = 0 if head is None else len(head)
    if contents.published is None:
        if config:
            raise ValueError(f"config is for published files, but {file.source} is not one: leave it out")
        return build_part(file, part, num_classes), []
    if unknown := sorted(set(config) - {*ARGUMENTS, *MASK_ARGUMENTS}):
        raise ValueError(f"config has arguments that no published net has: {unknown}")
    arguments, inferred = complete_config(file.hyper_parameters | dict(config), contents.published, file.source)
    if part == "autoencoder":
        return build_published("neurostorm_mae", arguments, contents.published), inferred
    arguments = {name: value for name, value in arguments.items() if name in ARGUMENTS}
    kind = kind_of(contents.published)
    return build_published(kind, arguments, contents.published, num_classes=num_classes), inferred


def save_pretrained(net: nn.Module, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the weights of a net, and what `load_pretrained` needs to build it again, to a safetensors file.

    The file holds numbers and text, nothing that could run. It is whole or not there, and the same net makes the same
    file. Of nstorm's nets it keeps the arguments they were built with, and of any `MaskedAutoencoder` those of its
    encoder. A net of another class, one with a mixer, mask, loss or head of one's own, or one that since has weights
    of other names or shapes, is loaded with `into=`; a warning says so, and whether its encoder can be built alone.

    Args:
        net: any module. What torch.compile or parallel training have wrapped around it is left out.
        path: ends in `.safetensors`. Folders are made.
        overwrite: replace a file that is there.

    Returns:
        The path.

    Raises:
        FileExistsError: if there is such a file, and it is not to be overwritten.
        ValueError: if the path ends otherwise, or the net has a state that is no tensor or no values yet.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from nstorm.nets import SwiFT, load_pretrained, save_pretrained
        >>> net = SwiFT((24, 24, 24, 8), num_heads=(3, 6), feature_size=12, depths=(1, 1), num_classes=2)
        >>> with TemporaryDirectory() as folder:
        ...     path = save_pretrained(net, Path(folder) / "swift.safetensors")
        ...     again, report = load_pretrained(path, "classifier")
        >>> again.arguments["num_heads"], again.num_classes, len(report.loaded) == len(net.state_dict())
        ([3, 6], 2, True)
    """
    from safetensors.torch import save_file

    from nstorm.data.files.atomic import written_whole

    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} has to end in .safetensors, the format of what is written")
    net = unwrapped(net)
    state = net.state_dict()
    if not_tensors := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"{type(net).__name__} has a state that is no tensor and cannot be saved: {listed(not_tensors)}"
        )
    if without := [name for name, value in state.items() if value.is_meta]:
        raise ValueError(f"{type(net).__name__} has no values to save on the meta device: {listed(without)}")
    whole, encoder = recipe_of(net), encoder_recipe_of(net)
    about = {"version": version("nstorm"), **asdict(whole)}
    if encoder is not None and encoder != whole:
        about["encoder"] = asdict(encoder)
    if (token := used_token(net)) is not None:
        about["mask_token"] = token
    # copies, because safetensors refuses tensors that share memory
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    with written_whole(path, overwrite=overwrite) as temporary:
        # one entry, because several come in a random order, and the same net is to make the same file
        save_file(tensors, temporary, {METADATA: json.dumps(about, sort_keys=True)})
    if whole.arguments is None:
        can = "builds its encoder by itself" if encoder and encoder.arguments else "builds no part of it by itself"
        warnings.warn(
            f"{path} does not say how to build its {type(net).__name__}, because {whole.why_no_arguments}: "
            f"load_pretrained {can}, and loads all of it with into=",
            UserWarning,
            stacklevel=2,
        )
    return path
