"""One pass over the folders of a BIDS tree."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeAlias

from nstorm.data.in_threads import in_threads

INHERITED = ("bold.json", "events.tsv")

Wanted: TypeAlias = Callable[[str], bool]


@dataclass(frozen=True, eq=False)
class Level:
    """A folder and the names of the files in it."""

    path: str
    names: frozenset[str]

    def file(self, *names: str) -> str:
        """Give the path of the first of the names that is there, or ``""``."""
        return next((os.path.join(self.path, name) for name in names if name in self.names), "")

    def applicable(self, parts: frozenset[str], ending: str) -> str:
        """Give the most specific file for a run by the BIDS inheritance principle, or ``""``."""
        found = [(len(own), name) for own, last, name in self._inherited if last == ending and own <= parts]
        return os.path.join(self.path, max(found)[1]) if found else ""

    @cached_property
    def _inherited(self) -> list[tuple[frozenset[str], str, str]]:
        parts = [(name.split("_"), name) for name in self.names if name.endswith(INHERITED)]
        return [(frozenset(own), ending, name) for (*own, ending), name in parts]


@dataclass(frozen=True)
class FuncFolder:
    """A ``func`` folder, and above it those of the session, of the subject and of the study."""

    subject: str
    session: str
    levels: tuple[Level, ...]


def func_folders(root: str, *, subjects: Wanted, sessions: Wanted) -> tuple[list[str], list[FuncFolder]]:
    """List the subjects of a BIDS tree and their ``func`` folders; no other folder is looked into.

    Args:
        root: The folder of the study, which holds ``sub-*``.
        subjects: Whether a subject is wanted, by its name without ``sub-``.
        sessions: Whether a session is wanted, by its name without ``ses-``; ``""`` is for ``func`` outside sessions.

    Raises:
        OSError: A folder is not there or cannot be read.
    """
    folders, level = _listed(root)
    # fMRIPrep's sub-01.html stands beside sub-01
    found = sorted(name.removeprefix("sub-") for name in folders if name.startswith("sub-"))
    found = [subject for subject in found if subjects(subject)]
    of_subject = in_threads(partial(_of_subject, level, sessions), found)
    return found, [folder for several in of_subject for folder in several]


def _of_subject(root: Level, sessions: Wanted, subject: str) -> list[FuncFolder]:
    folders, level = _listed(os.path.join(root.path, f"sub-{subject}"))
    found = []
    if "func" in folders and sessions(""):
        found.append(FuncFolder(subject, "", (_func(level), level, root)))
    for name in sorted(folders):
        session = name.removeprefix("ses-")
        if session != name and sessions(session):
            in_session, of_session = _listed(os.path.join(level.path, name))
            if "func" in in_session:
                found.append(FuncFolder(subject, session, (_func(of_session), of_session, level, root)))
    return found


def _func(above: Level) -> Level:
    return _listed(os.path.join(above.path, "func"))[1]


def _listed(path: str) -> tuple[set[str], Level]:
    folders, files = set(), []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.add(entry.name)
            else:
                files.append(entry.name)
    return folders, Level(path, frozenset(files))
