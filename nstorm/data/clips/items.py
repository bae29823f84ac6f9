"""Runs as dictionaries: an image and what is known about it."""

import math
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import Any

from torch import Tensor

from nstorm.data.files.bids_name import bids_entities

IDENTITY = {"subject": "sub", "session": "ses", "task": "task", "run": "run"}


def run_item(image: str | PathLike[str] | Tensor, **labels: Any) -> dict[str, Any]:
    """Describe a run as an item, with subject, session, task and run from its BIDS name.

    Items are plain dictionaries and may as well be written by hand. Their values are text, numbers or tensors, which
    is what MONAI's caches and loaders handle. The name of a subject stands for one person: where studies are put
    together whose subjects have the same names, give them names of their own (``subject="leipzig-01"``).

    Args:
        image: A NIfTI file, or a run in memory, whose name is then ``meta["filename_or_obj"]``.
        labels: Everything else that is known: ``mask`` and ``events`` (files), ``site``, ``age``, ``sex`` and so on.
            ``subject``, ``session``, ``task`` and ``run`` take precedence over the name.

    Returns:
        ``image``, the text of a path or the tensor; ``subject``, ``session``, ``task`` and ``run``, each ``""`` where
        it is unknown, so that all items of a dataset have the same keys; and the labels, paths as text.

    Example:
        >>> from nstorm.data.clips.items import run_item
        >>> run_item("/study/sub-01/func/sub-01_task-rest_run-2_bold.nii.gz", site="Leipzig", age=24.0)
        {'image': '/study/sub-01/func/sub-01_task-rest_run-2_bold.nii.gz', 'subject': '01', 'session': '',
         'task': 'rest', 'run': '2', 'site': 'Leipzig', 'age': 24.0}
    """
    entities = bids_entities(image_file({"image": image}))
    named = {key: entities.get(entity, "") for key, entity in IDENTITY.items()}
    item = {"image": image, **named, **labels}
    return {key: fspath(value) if isinstance(value, PathLike) else value for key, value in item.items()}


def image_file(item: Mapping[str, Any]) -> str:
    """Give the file that the image of an item is, or was read from; ``""`` where there is none."""
    image = item.get("image", "")
    if isinstance(image, Tensor):
        return str(getattr(image, "meta", {}).get("filename_or_obj", ""))
    return fspath(image)


def subject_of(item: Mapping[str, Any]) -> str:
    """Name the person of an item; ``"sub-01"`` and ``"01"`` are one person, and so are ``"7"`` and ``7``.

    Raises:
        ValueError: The item has no subject.
    """
    subject = _value(item, "subject")
    if not subject:
        raise ValueError(
            f"the item of {image_file(item) or 'an image without a file'} has no subject: "
            "set item['subject'], or make the item with nstorm.data.run_item from a file with a BIDS name"
        )
    return subject


def run_of(item: Mapping[str, Any]) -> str:
    """Name the run of an item in the words of BIDS, such as ``sub-01_ses-2_task-rest_run-1``.

    Raises:
        ValueError: The item has no subject.
    """
    subject_of(item)
    values = {entity: _value(item, key) for key, entity in IDENTITY.items()}
    return "_".join(f"{entity}-{value}" for entity, value in values.items() if value)


def listing(names: Iterable[str], most: int = 5) -> str:
    """Name some of many: ``01, 02, 03 and 4 more``."""
    names = sorted(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _value(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    # pandas gives NaN for what a table leaves out
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value).removeprefix(f"{IDENTITY[key]}-")
