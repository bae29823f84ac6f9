"""Which values of a key are wanted."""

import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from nstorm.data.clips.items import IDENTITY, text_of
from nstorm.data.wording import some_of

Wanted: TypeAlias = str | int | float | Collection[str | int | float] | Callable[[Any], bool] | None

# 1 and 01 are the same
_NUMBERED = ("run", "echo", "res")
# BIDS's short names, and those of its tables
_KEYS = {entity: key for key, entity in IDENTITY.items()} | {
    "participant_id": "subject",
    "subjects": "subject",
    "session_id": "session",
}


def item_key(name: str) -> str:
    """Give the key that items have for BIDS's name of an entity or of a column; other names are their own key.

    Tables of other origin write ``Subject`` and ``Session``.
    """
    lower = name.lower()
    return _KEYS.get(name, lower if lower in ("subject", "session") else name)


def wanted_by(key: str, wanted: Wanted) -> Callable[[Any], bool]:
    """Make a test of whether a value is wanted: equal to one, among several, or as a function says.

    Values are compared as text, so that 7 is ``"7"`` and 7.0, with BIDS's prefix or without; for a run, an echo or a
    resolution 1 is also ``"01"``. ``""`` and None want values that are not known.
    """
    if callable(wanted):
        return wanted
    texts = named_by(key, wanted)
    return lambda value: plain(key, value) in texts


def named_by(key: str, wanted: Wanted) -> set[str]:
    """Write the values that are wanted by name as text; a function names none."""
    if callable(wanted):
        return set()
    several = [wanted] if wanted is None or isinstance(wanted, str | int | float) else wanted
    return {plain(key, value) for value in several}


def selected(runs: Sequence[dict[str, Any]], wanted: Mapping[str, Wanted]) -> list[dict[str, Any]]:
    """Keep the runs that have the values that are wanted of their keys.

    Raises:
        ValueError: No run has such a key, or none has all of the values.
    """
    tests = {item_key(name): wanted_by(item_key(name), values) for name, values in wanted.items()}
    keys = dict.fromkeys(key for run in runs for key in run)
    if missing := [key for key in tests if key not in keys]:
        raise ValueError(f"the runs have no {' and no '.join(missing)}: choose among {', '.join(keys)}")
    kept = [run for run in runs if all(test(run.get(key, "")) for key, test in tests.items())]
    if not kept:
        there = "; ".join(f"{key}: {some(str(run.get(key, '')) for run in runs)}" for key in tests)
        raise ValueError(f"no run has all of {asked_for(wanted)}: choose among {there}")
    return kept


def asked_for(wanted: Mapping[str, Wanted]) -> str:
    """Write filters as they are given to a call, a long one in short."""
    return ", ".join(f"{key}={reprlib.repr(values)}" for key, values in wanted.items())


def plain(key: str, value: Any) -> str:
    """Write the value of a key as :func:`bare` does, and without zeros that only fill up a number."""
    text = bare(key, value)
    return str(int(text)) if key in _NUMBERED and text.isdecimal() else text


def bare(key: str, value: Any) -> str:
    """Write the value of a key as text without BIDS's prefix."""
    return text_of(value).removeprefix(f"{IDENTITY.get(key, key)}-")


def some(values: Iterable[str], most: int = 10) -> str:
    """Name some of many values, those that are not known too."""
    return some_of(list(map(repr, sorted(set(values)))), most)
