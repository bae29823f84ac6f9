"""The runs of a BIDS tree: of what fMRIPrep and its like have written, or of raw data."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nstorm.data.clips.items import FILES
from nstorm.data.files.bids_name import bids_entities
from nstorm.data.study.elsewhere import no_volumes, nothing_found, nothing_left, preprocessed
from nstorm.data.study.problem import Problem, without_run
from nstorm.data.study.selection import Wanted, asked_for, item_key, named_by, wanted_by
from nstorm.data.study.table import Row
from nstorm.data.study.walk import FuncFolder, Level, func_folders
from nstorm.data.wording import counted

IMAGES = ("_bold.nii.gz", "_bold.nii")
MASK = ("desc-brain_mask.nii.gz", "desc-brain_mask.nii")
# the second is from before fMRIPrep 20.2
CONFOUNDS = ("desc-confounds_timeseries.tsv", "desc-confounds_regressors.tsv")
_OF_DERIVATIVE = {"space", "cohort", "res", "den", "desc"}
_OF_ECHO = {"echo", "part"}

Tests = Mapping[str, Callable[[Any], bool]]


def bids_runs(folder: Path, wanted: Mapping[str, Wanted], raw: Path | None) -> tuple[list[Row], list[Problem]]:
    """Find the runs of a BIDS tree, with the mask, confounds, events and sidecar of each, in one pass.

    Args:
        folder: The folder that holds ``sub-*``.
        wanted: Values of keys of items; None wants all. An image whose name has no ``desc`` is raw, and wanted whatever
            ``desc`` is.
        raw: The raw tree of the same study, for events.

    Returns:
        The items, and the problems that subjects have no run, and that the runs are raw beside preprocessed ones.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There is no run.
    """
    wanted = {key: values for key, values in wanted.items() if values is not None}
    tests = {key: wanted_by(key, values) for key, values in wanted.items()}
    subjects, folders = _walked(folder, tests)
    seen: dict[str, set[str]] = defaultdict(set)
    found = [(func, *run) for func in folders for run in _images(func.levels[0], tests, seen)]
    if not found:
        if seen:
            raise ValueError(nothing_left(folder, wanted, seen, folders[0].subject))
        raise ValueError(no_volumes(folder, folders) or nothing_found(folder, wanted))
    with_runs = {func.subject for func, _, _ in found}
    beside: dict[tuple[str, str], FuncFolder] = {}
    if raw is not None:
        _, in_raw = _walked(raw, {**tests, "subject": with_runs.__contains__})
        beside = {(func.subject, func.session): func for func in in_raw}

    runs = []
    for func, name, entities in found:
        other = beside.get((func.subject, func.session))
        runs.append(_item(name, entities, func.levels, other.levels if other else ()))
    asked = named_by("subject", wanted.get("subject"))
    lost = {f"sub-{subject}" for subject in {*subjects, *asked} - with_runs - {""}}
    filters = asked_for({key: value for key, value in wanted.items() if key != "subject"})
    problems = without_run(lost, "subject", f"without a run{' of ' if filters else ''}{filters} in {folder}")
    return _without_empty(runs), [*problems, *_raw_beside_preprocessed(folder, found[0][0].subject, runs)]


def raw_above(folder: Path) -> Path | None:
    """Give the raw tree in whose ``derivatives`` a folder lies, as BIDS recommends, if it does."""
    path = Path(os.path.abspath(folder))
    derivatives = path if path.name == "derivatives" else path.parent
    is_raw = derivatives.name == "derivatives" and (derivatives.parent / "dataset_description.json").is_file()
    return derivatives.parent if is_raw else None


def _raw_beside_preprocessed(folder: Path, subject: str, runs: Sequence[Row]) -> list[Problem]:
    if any(map(_of_derivative, runs)) or not (tree := preprocessed(folder, subject)):
        return []
    what = f"{counted(len(runs), 'raw run')} of {folder}, which has preprocessed ones as well"
    return [Problem("runs", what, "give that folder, or ignore 'runs' if raw ones are wanted", (str(tree),))]


def _walked(folder: Path, tests: Tests) -> tuple[list[str], list[FuncFolder]]:
    if folder.is_file():
        raise ValueError(f"{folder} is a file: give the folder that holds sub-*; tables are for Study.from_manifest")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: give one that holds the folders sub-* of a study")
    subjects, sessions = (tests.get(key, lambda _: True) for key in ("subject", "session"))
    return func_folders(os.path.abspath(folder), subjects=subjects, sessions=sessions)


def _images(folder: Level, tests: Tests, seen: dict[str, set[str]]) -> Iterator[tuple[str, dict[str, str]]]:
    for name in sorted(folder.names):
        if name.endswith(IMAGES):
            entities = bids_entities(name)
            entities.pop("suffix", None)
            values = {item_key(entity): value for entity, value in entities.items()}
            for key in tests:
                seen[key].add(values.get(key, ""))
            if all(test(values.get(key, "")) for key, test in tests.items() if key != "desc" or key in values):
                yield name, entities


def _item(name: str, entities: Mapping[str, str], levels: tuple[Level, ...], raw: tuple[Level, ...]) -> Row:
    folder = levels[0]
    stem = name.partition(".")[0]
    parts = frozenset(stem.split("_"))
    image = _named(entities, without=_OF_ECHO | {"desc"})
    recording = _named(entities, without=_OF_ECHO | _OF_DERIVATIVE)
    return {
        "image": os.path.join(folder.path, name),
        **{item_key(entity): value for entity, value in entities.items()},
        "mask": folder.file(*(f"{image}_{ending}" for ending in MASK)),
        "confounds": folder.file(*(f"{recording}_{ending}" for ending in CONFOUNDS)),
        "events": _inherited((*levels, *raw), parts, "events.tsv"),
        "sidecar": folder.file(f"{stem}.json") or _inherited(levels, parts, "bold.json"),
    }


def _named(entities: Mapping[str, str], without: set[str]) -> str:
    return "_".join(f"{entity}-{value}" for entity, value in entities.items() if entity not in without)


def _inherited(levels: tuple[Level, ...], parts: frozenset[str], ending: str) -> str:
    return next((path for level in levels if (path := level.applicable(parts, ending))), "")


def _without_empty(runs: list[Row]) -> list[Row]:
    # masks are expected of derivatives, even where all are missing
    expected = {"mask"} if any(map(_of_derivative, runs)) else set()
    empty = [key for key in FILES if not any(run[key] for run in runs)]
    return [{key: value for key, value in run.items() if key not in empty or key in expected} for run in runs]


def _of_derivative(run: Row) -> bool:
    return not run.keys().isdisjoint(_OF_DERIVATIVE)
