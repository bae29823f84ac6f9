"""Where the images of a study are, if not where they were looked for."""

import os
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

from nstorm.data.study.selection import Wanted, asked_for, some
from nstorm.data.study.walk import FuncFolder

# grayordinates and surfaces
_NO_VOLUMES = ("_bold.dtseries.nii", "_bold.func.gii")
_FEW = 100
_TREES = ("*/", "derivatives/*/", "*/derivatives/*/")


def nothing_found(folder: Path, wanted: Mapping[str, Wanted]) -> str:
    """Say that a folder has no image of a run, why that may be, and what to do."""
    asked = asked_for({key: wanted[key] for key in ("subject", "session") if key in wanted})
    fault = f"{folder} has no image sub-*/[ses-*/]func/*_bold.nii[.gz]{' of ' if asked else ''}{asked}"
    path = Path(os.path.abspath(folder))
    if subject := next((part for part in (path, *path.parents) if part.name.startswith("sub-")), None):
        name = subject.name.removeprefix("sub-")
        return f"{fault}: it belongs to one subject, so give {subject.parent}, and subjects={name!r} for it alone"
    if asked and (subjects := sorted(folder.glob("sub-*/"))):
        sessions = {session.name for subject in subjects[:_FEW] for session in subject.glob("ses-*/")}
        return f"{fault}: choose among its subjects, {some(subject.name for subject in subjects)}" + (
            f", and sessions, {some(sessions)}" if sessions else "; it has no sessions"
        )
    if trees := _trees_in(folder):
        return f"{fault}: give the folder that holds sub-*, such as {some(trees)}"
    return f"{fault}: give the folder that holds sub-*; others, as the HCP's, are for patterns (Study.from_pattern)"


def no_volumes(folder: Path, folders: Iterable[FuncFolder]) -> str | None:
    """Say that a study has been written without volumes, if so."""
    names = (name for func in folders for name in sorted(func.levels[0].names))
    found = next((name for name in names if name.endswith(_NO_VOLUMES)), None)
    if found is None:
        return None
    return (
        f"{folder} has no volumes (*_bold.nii[.gz]) but grayordinates or surfaces, such as {found}: give one with "
        "volumes, which fMRIPrep writes with --output-spaces MNI152NLin2009cAsym"
    )


def nothing_left(folder: Path, wanted: Mapping[str, Wanted], seen: Mapping[str, set[str]], subject: str) -> str:
    """Say that no image has all values that are wanted, and which values there are."""
    there = "; ".join(f"{key}: {some(values)}" for key, values in seen.items())
    tree = preprocessed(folder, subject)
    elsewhere = f", or give {tree}, which has preprocessed images" if tree else ""
    return f"no run of {folder} has all of {asked_for(wanted)}: choose among {there}{elsewhere}"


def preprocessed(folder: Path, subject: str) -> Path | None:
    """Give the tree of derivatives in a raw tree that has images of a subject, if there is one."""
    runs = ("func/*_bold.nii*", "ses-*/func/*_bold.nii*")
    for tree in chain([folder / "derivatives"], sorted(folder.glob("derivatives/*/"))):
        if any(next((tree / f"sub-{subject}").glob(run), None) for run in runs):
            return tree
    return None


def _trees_in(folder: Path) -> list[str]:
    """Name the folders in a folder that hold ``sub-*``."""
    trees = (tree for pattern in _TREES for tree in folder.glob(pattern) if not tree.name.startswith("sub-"))
    return [str(tree) for tree in trees if next(tree.glob("sub-*/"), None)]
