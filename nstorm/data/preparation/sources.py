"""The files that a stored run follows from, and whether they are still the same."""

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

from nstorm.data.clips.items import FILES, text_of
from nstorm.data.files.reader import BOLDFile
from nstorm.data.preparation.recipe import Recipe
from nstorm.data.store.record import RunRecord

OTHERWISE = "prepared in another way"
CHANGED = "prepared from files that have changed since, or are gone"
# what a sidecar says that matters, the TR, comes from all that apply to the image, not only from the nearest
_READ = ("image", "mask", "confounds", "events")
_PAIR = re.compile(r"\.(hdr|img|HDR|IMG)(?=(\.gz|\.bz2|\.zst)?$)")
_OTHER = {"hdr": "img", "img": "hdr", "HDR": "IMG", "IMG": "HDR"}


def sources_of(item: Mapping[str, Any], recipe: Recipe, tr: float) -> dict[str, dict[str, Any]]:
    """Describe what a run follows from: path, size, time of the last change and SHA-256 of each file, and its TR.

    Raises:
        OSError: A file cannot be read.
    """
    return {**{name: _described(path) for name, path in _files(item, recipe).items()}, "tr": {"seconds": tr}}


def why_again(item: Mapping[str, Any], record: RunRecord, recipe: Recipe) -> str:
    """Say why a stored run is not what a recipe makes of an item's files as they are now; ``""`` if it is.

    A file whose size and time of the last change are the same is the same; otherwise its content is looked at. The TR
    has to be the same, wherever it is from: the item, a sidecar beside or above the image, or the header.

    Args:
        item: The run.
        record: What the store says of it.
        recipe: What is to be done with it.
    """
    if record.recipe != recipe.digest:
        return OTHERWISE
    known, files = dict(record.sources), _files(item, recipe)
    tr = known.pop("tr", None)
    try:
        same = (
            files.keys() == known.keys()
            and all(_is_same(path, known[name]) for name, path in files.items())
            and tr == {"seconds": BOLDFile(file_of(item, "image"), tr=given_tr(item)).tr}
        )
    except (OSError, ValueError):
        # a file is gone, or does not say its TR any more: preparing the run says which
        return CHANGED
    return "" if same else CHANGED


def check_unchanged(sources: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse files that were written while they were read.

    Raises:
        OSError: One was.
    """
    for name, source in sources.items():
        if name == "tr":
            continue
        stat = os.stat(source["path"])
        if (stat.st_size, stat.st_mtime_ns) != (source["size"], source["mtime_ns"]):
            raise OSError(f"{source['path']} has changed while it was read: prepare the run again when it is whole")


def file_of(item: Mapping[str, Any], key: str) -> str:
    """Give a file of an item, ``""`` where there is none."""
    value = item.get(key, "")
    return os.fspath(value) if isinstance(value, os.PathLike) else text_of(value)


def given_tr(item: Mapping[str, Any]) -> float | None:
    """Give the TR that an item states, in seconds."""
    return float(item["tr"]) if text_of(item.get("tr", "")) else None


def labels_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """Give the labels of an item: all but its files and its TR, which the store has of its own.

    Labels that are not known, ``""`` and NaN, stay, so that all runs of a store have the same ones.

    Raises:
        ValueError: A label is neither text nor a number.
    """
    labels = {name: _plain(value) for name, value in item.items() if name not in (*FILES, "tr")}
    for name, value in labels.items():
        if not isinstance(value, str | int | float):
            raise ValueError(
                f"the label {name} of {item['image']} is a {type(value).__name__}, but a store keeps text and numbers: "
                "convert it, or leave it out"
            )
    return labels


def _plain(value: Any) -> Any:
    # numbers of numpy and pandas
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


def _files(item: Mapping[str, Any], recipe: Recipe) -> dict[str, str]:
    files = {name: os.path.abspath(path) for name in _READ if (path := file_of(item, name))}
    if recipe.confounds is not None and "confounds" in files:
        # it says what the components are, from which nilearn chooses
        files["confounds.json"] = os.path.splitext(files["confounds"])[0] + ".json"
    for name in ("image", "mask"):
        if (path := files.get(name, "")) and (end := _PAIR.search(path)):
            files[f"{name}.{_OTHER[end[1]].lower()}"] = f"{path[: end.start(1)]}{_OTHER[end[1]]}{path[end.end(1) :]}"
    return {name: path for name, path in files.items() if name in _READ or os.path.exists(path)}


def _described(path: str) -> dict[str, Any]:
    stat = os.stat(path)
    return {"path": path, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": _sha256(path)}


def _is_same(path: str, known: Mapping[str, Any]) -> bool:
    stat = os.stat(path)
    if stat.st_size != known["size"]:
        return False
    return bool(stat.st_mtime_ns == known["mtime_ns"] or _sha256(path) == known["sha256"])


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
