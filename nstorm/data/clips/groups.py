"""Clips by group and run, and their dealing in rounds."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nstorm.data.clips.items import listing, subject_of, text_of

By = str | Callable[[Mapping[str, Any]], Hashable]


def runs_by_group(items: Sequence[Mapping[str, Any]], by: By) -> list[list[list[int]]]:
    """Give for each group its runs, and for each run of it the indices of its clips.

    Raises:
        ValueError: Clips have no such label.
    """
    groups: dict[Hashable, dict[str, list[int]]] = {}
    unknown = set()
    for index, item in enumerate(items):
        group = _group_of(item, by)
        if group == "":
            unknown.add(item["key"])
        groups.setdefault(group, {}).setdefault(item["key"], []).append(index)
    if unknown:
        raise ValueError(
            f"{by} of {len(unknown)} runs is not known ({listing(unknown)}): join it to the items of the store with "
            "Study(store.run_items()).join, or leave these runs out"
        )
    return [list(runs.values()) for runs in groups.values()]


def dealt(tree: Sequence[Any], random: np.random.RandomState) -> Iterator[int]:
    """Deal the leaves of a tree of lists without end: of each list all come once in a round, in random order."""
    branches = [dealt(branch, random) if isinstance(branch, list) else None for branch in tree]
    while True:
        for number in random.permutation(len(tree)):
            branch = branches[number]
            yield tree[number] if branch is None else next(branch)


def _group_of(item: Mapping[str, Any], by: By) -> Hashable:
    if callable(by):
        return by(item)
    return subject_of(item) if by == "subject" else text_of(item.get(by))
