"""The files that a stored run follows from, and whether they are still the same."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from nstorm.data.clips.items import text_of
from nstorm.data.preparation.recipe import Recipe
from nstorm.data.store.record import RunRecord

FILES = ("image", "mask", "confounds", "events", "sidecar")


def sources_of(item: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Describe the files of an item: path, size, time of the last change and SHA-256 of each; and a TR that it gives.

    Raises:
        OSError: A file cannot be read.
    """
    files = {name: _described(path) for name, path in _files(item).items()}
    return files if (tr := given_tr(item)) is None else {**files, "tr": {"seconds": tr}}


def is_current(item: Mapping[str, Any], record: RunRecord, recipe: Recipe) -> bool:
    """Whether a stored run is what a recipe makes of an item's files as they are now.

    A file whose size and time of the last change are the same is the same; otherwise its content is looked at.

    Args:
        item: The run.
        record: What the store says of it.
        recipe: What is to be done with it.

    Raises:
        OSError: A file of the item cannot be read.
    """
    files, known = _files(item), {name: source for name, source in record.sources.items() if name != "tr"}
    return (
        record.recipe == recipe.digest
        and record.sources.get("tr", {}).get("seconds") == given_tr(item)
        and files.keys() == known.keys()
        and all(_is_same(path, known[name]) for name, path in files.items())
    )


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


def _files(item: Mapping[str, Any]) -> dict[str, str]:
    # a TR that is given takes precedence over the sidecar's, which then says nothing
    wanted = [name for name in FILES if name != "sidecar" or given_tr(item) is None]
    return {name: os.path.abspath(path) for name in wanted if (path := file_of(item, name))}


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
