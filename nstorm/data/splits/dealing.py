"""Dealing subjects or runs to the parts of a split, in equal shares of every class."""

import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from numbers import Real
from typing import Any

from nstorm.data.clips.items import listing, subject_of, text_of

NUM_BINS = 5
MOST_CLASSES = 10


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Order names at random, the same way on every machine and in whatever order they come.

    No generator is drawn from, so that a split does not change with a library's version.
    """
    return sorted(names, key=lambda name: sha256(f"{seed}/{name}".encode()).digest())


def deal(strata: Mapping[str, Sequence[str]], shares: Mapping[str, float], unit: str) -> dict[str, list[str]]:
    """Deal the names of every stratum to the parts by their shares.

    Of each stratum a part gets its share rounded down or up, such that the parts of all strata together are as close to
    their shares as can be.

    Raises:
        ValueError: The shares are not positive or do not sum to 1, or a stratum has too few names for all parts.
    """
    if not all(share > 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise ValueError(f"the fractions are {dict(shares)}, but they have to be positive and to sum to 1")
    parts: dict[str, list[str]] = {part: [] for part in shares}
    owed = dict.fromkeys(shares, 0.0)
    for stratum, names in strata.items():
        counts = {part: math.floor(len(names) * share) for part, share in shares.items()}
        for part, share in shares.items():
            owed[part] += len(names) * share - counts[part]
        # first the parts that have none of this stratum, then those that rounding has cost most
        by_need = sorted(shares, key=lambda part: (counts[part] > 0, -owed[part]))
        for part in by_need[: len(names) - sum(counts.values())]:
            counts[part] += 1
            owed[part] -= 1
        if not all(counts.values()):
            raise ValueError(
                f"{stratum} has {len(names)} {unit}s, too few for one in each of "
                f"{', '.join(f'{part} ({share:g})' for part, share in shares.items())}: "
                "make fewer or more equal parts, or join small classes"
            )
        start = 0
        for part, count in counts.items():
            parts[part] += names[start : start + count]
            start += count
    return parts


def strata_of(
    items: Iterable[Mapping[str, Any]], label: str | None, smallest_share: float, seed: int
) -> dict[str, list[str]]:
    """Group the subjects of items, shuffled, by a class or by quantiles of a quantity."""
    by_subject: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        by_subject.setdefault(subject_of(item), []).append(item)
    subjects = shuffled(by_subject, seed)
    if not subjects:
        raise ValueError("items is empty: give at least one")
    if label is None:
        return {"the study": subjects}

    values: dict[str, list[Any]] = {subject: [item.get(label) for item in by_subject[subject]] for subject in subjects}
    if unlabelled := [subject for subject, several in values.items() if any(map(_is_missing, several))]:
        raise ValueError(
            f"{len(unlabelled)} of {len(subjects)} subjects have an item without {label} ({listing(unlabelled)}): "
            "add it, or leave them out"
        )
    if _is_quantity([value for several in values.values() for value in several]):
        means = {subject: math.fsum(several) / len(several) for subject, several in values.items()}
        return {name: shuffled(names, seed) for name, names in _quantiles(means, label, smallest_share).items()}
    classes: dict[str, list[str]] = {}
    for subject in subjects:
        several = sorted({text_of(value) for value in values[subject]})
        if len(several) > 1:
            raise ValueError(
                f"the subject {subject!r} has {label} {' and '.join(several)}: correct it, or give different people of "
                "one name names of their own"
            )
        classes.setdefault(several[0], []).append(subject)
    return {f"{label} {name!r}": classes[name] for name in sorted(classes)}


def _is_missing(value: Any) -> bool:
    return text_of(value) == "" or (isinstance(value, Real) and not math.isfinite(value))


def _is_quantity(values: Sequence[Any]) -> bool:
    if not all(isinstance(value, Real) and not isinstance(value, bool) for value in values):
        return False
    return len(set(values)) > MOST_CLASSES or any(value != int(value) for value in values)


def _quantiles(values: Mapping[str, float], label: str, smallest_share: float) -> dict[str, list[str]]:
    # as many as leave the smallest part a subject of each
    num_bins = max(1, min(NUM_BINS, int(len(values) * smallest_share)))
    ordered = sorted(values, key=values.__getitem__)
    cuts = [len(ordered) * cut // num_bins for cut in range(num_bins + 1)]
    bins = [ordered[start:stop] for start, stop in pairwise(cuts)]
    return {f"{label} {values[one[0]]:g} to {values[one[-1]]:g} (quantile {n})": one for n, one in enumerate(bins, 1)}
