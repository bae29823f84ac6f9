"""Runs as dictionaries: an image and what is known about it."""

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from os import PathLike, fspath
from typing import Any
from urllib.parse import quote

from torch import Tensor

from nstorm.data.files.bids_name import bids_entities
from nstorm.data.wording import some_of

# what tells recordings apart, in the order of BIDS; its other entities name versions of one recording
IDENTITY = {
    "subject": "sub",
    "session": "ses",
    "task": "task",
    "acquisition": "acq",
    "direction": "dir",
    "run": "run",
}
FILES = ("image", "mask", "confounds", "events", "sidecar")
"""Keys of an item whose values are files."""

# how BIDS writes that a value is not known, and what NaN, NaT and pandas' NA become as text
_UNKNOWN = {"", "n/a", "nan", "NaT", "<NA>"}


def run_item(image: str | PathLike[str] | Tensor, **labels: Any) -> dict[str, Any]:
    """Describe a run as an item, with what its BIDS name says of the subject, session, task and so on.

    Items are plain dictionaries and may as well be written by hand. Their values are text, numbers or tensors, which
    is what MONAI's caches and loaders handle. The name of a subject stands for one person: where studies are put
    together whose subjects have the same names, give them names of their own (``subject="leipzig-01"``). Names outside
    BIDS say nothing: for HCP's ``rfMRI_REST1_LR.nii.gz`` give ``subject="100307", task="REST1", direction="LR"``.

    Args:
        image: A NIfTI file, or a run in memory, whose name is then ``meta["filename_or_obj"]``.
        labels: Everything else that is known: ``mask`` and ``events`` (files), ``site``, ``age``, ``sex`` and so on.
            They take precedence over the name.

    Returns:
        ``image``, the text of a path or the tensor; ``subject``, ``session``, ``task``, ``acquisition``, ``direction``
        and ``run``, each ``""`` where it is unknown, so that all items of a dataset have the same keys; and the labels,
        paths as text.

    Example:
        >>> from nstorm.data.clips.items import run_item
        >>> run_item("/study/sub-01/func/sub-01_task-rest_run-2_bold.nii.gz", site="Leipzig", age=24.0)
        {'image': '/study/sub-01/func/sub-01_task-rest_run-2_bold.nii.gz', 'subject': '01', 'session': '',
         'task': 'rest', 'acquisition': '', 'direction': '', 'run': '2', 'site': 'Leipzig', 'age': 24.0}
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
    """Name the person of an item; ``"sub-01"`` and ``"01"`` are one person, and so are ``"7"``, ``7`` and ``7.0``.

    Raises:
        ValueError: The item has no subject.
    """
    subject = _named(item, "subject")
    if not subject:
        raise ValueError(
            f"the item of {image_file(item) or 'an image without a file'} has no subject: "
            "set item['subject'], or make the item with nstorm.data.run_item from a file with a BIDS name"
        )
    return subject


def run_of(item: Mapping[str, Any]) -> str:
    """Name the run of an item in the words of BIDS, such as ``sub-01_ses-2_task-rest_run-1``.

    It can name a file or folder anywhere: what is neither a letter from A to Z, a digit nor one of ``-_.+~`` is written
    as ``=`` and its UTF-8 bytes in hexadecimal digits, so that the subject ``a/b`` gives ``sub-a=2Fb``.

    Raises:
        ValueError: The item has no subject.
    """
    subject_of(item)
    return recording_of(item)


def recording_of(item: Mapping[str, Any]) -> str:
    """Name the run of an item as :func:`run_of` does, as far as it is known."""
    values = {entity: _named(item, key) for key, entity in IDENTITY.items()}
    # percent signs mean something in the URLs of object stores
    return "_".join(f"{entity}-{quote(value, safe='+').replace('%', '=')}" for entity, value in values.items() if value)


def text_of(value: Any) -> str:
    """Write a label such that one value has one text, ``""`` where it is not known; True is 1.

    Not known are None, NaN, NaT, pandas' NA and the texts that ``str`` makes of the last three, and BIDS's ``n/a``; the
    text ``None`` is a label like others.
    """
    if value is None:
        return ""
    # pandas makes decimals of numbers, and NaN of what a table leaves out
    if isinstance(value, Integral):
        value = int(value)
    elif isinstance(value, Real) and float(value).is_integer():
        value = int(float(value))
    text = str(value).strip()
    return "" if text in _UNKNOWN else text


def listing(names: Iterable[str], most: int = 5) -> str:
    """Name some of many, sorted."""
    return some_of(sorted(names), most)


def _named(item: Mapping[str, Any], key: str) -> str:
    return text_of(item.get(key)).removeprefix(f"{IDENTITY[key]}-")
