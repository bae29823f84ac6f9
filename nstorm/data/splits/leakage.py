"""A check that what is tested was not trained on."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from nstorm.data.clips.items import image_file, listing
from nstorm.data.splits.split import UNITS


def check_leakage(*, unit: str = "subject", **parts: Any) -> None:
    """Refuse parts of a split that share a subject, a run or a file.

    A file counts under whatever name links to it, and whichever of its frames are used: all are of one run.

    Args:
        unit: What has to be in one part only: ``"subject"``, or ``"run"`` where one person is studied on purpose.
        parts: The parts by name (``train=``, ``validation=``, ``test=``): run items or clip items, a MONAI or PyTorch
            dataset of them (also a Subset or a ConcatDataset), or a loader of one. Transforms are not run.

    Raises:
        ValueError: Two parts share a unit or a file, an item has no subject, or a part shows no items.

    Example:
        >>> from nstorm.data import haxby_runs
        >>> from nstorm.data.clips.cut import strided_clips
        >>> from nstorm.data.splits.leakage import check_leakage
        >>> first, second = (strided_clips(run.bold, 20) for run in haxby_runs()[:2])
        >>> check_leakage(train=first, test=second, unit="run")
        >>> check_leakage(train=first, test=second)
        Traceback (most recent call last):
        ValueError: train and test share 1 subject (001; 6 items of train, 6 of test): split by subject, ...
    """
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}, but what is held apart is one of {', '.join(UNITS)}")
    name_of = UNITS[unit]
    items = {part: items_behind(data) for part, data in parts.items()}
    for part, of_part in items.items():
        if not of_part:
            raise ValueError(f"{part} shows no items that could be checked: give the list of items it is made from")
    units = {part: Counter(name_of(item) for item in of_part) for part, of_part in items.items()}
    _refuse_shared(unit, units, _remedy(unit))
    refuse_shared_files(items)


def refuse_shared_files(parts: Mapping[str, list[Mapping[str, Any]]]) -> None:
    """Refuse parts whose items share a file, whether or not anybody knows their subjects."""
    _refuse_shared("file", {part: _files(items) for part, items in parts.items()}, "keep a file in one part")


def items_behind(data: Any) -> list[Mapping[str, Any]]:
    """Find the items of a loader or a dataset as they are before any transform; none where it holds no items."""
    if hasattr(data, "datasets"):
        # torch.utils.data.ConcatDataset
        each = [items_behind(dataset) for dataset in data.datasets]
        return [item for items in each for item in items] if all(each) else []
    if hasattr(data, "dataset"):
        items = items_behind(data.dataset)
        # torch.utils.data.Subset
        return [items[index] for index in data.indices] if items and hasattr(data, "indices") else items
    data = getattr(data, "data", data)
    return [item for item in data if isinstance(item, Mapping)] if isinstance(data, Sequence) else []


def _refuse_shared(kind: str, counts: Mapping[str, Counter[str]], remedy: str) -> None:
    for one, other in combinations(counts, 2):
        if shared := counts[one].keys() & counts[other].keys():
            num_items = [sum(counts[part][name] for name in shared) for part in (one, other)]
            raise ValueError(
                f"{one} and {other} share {len(shared)} {kind}{'s' * (len(shared) > 1)} ({listing(shared)}; "
                f"{num_items[0]} items of {one}, {num_items[1]} of {other}): {remedy}"
            )


def _files(items: list[Mapping[str, Any]]) -> Counter[str]:
    named = Counter(image_file(item) for item in items)
    del named[""]
    found: Counter[str] = Counter()
    for name, count in named.items():
        found[os.path.realpath(name)] += count
    return found


def _remedy(unit: str) -> str:
    if unit == "run":
        return "split with nstorm.data.split_runs_within_subject"
    return "split by subject, as nstorm.data.split_by_subject does, or, for one person on purpose, pass unit='run'"
