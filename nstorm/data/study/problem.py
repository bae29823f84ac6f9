"""What is wrong with a study, and what to do about it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nstorm.data.clips.items import listing
from nstorm.data.wording import counted

MOST_FILES = 3
MOST_PROBLEMS = 20

KINDS = (
    "subject",
    "duplicate",
    "image",
    "frames",
    "tr",
    "grid",
    "mask",
    "confounds",
    "events",
    "sidecar",
    "label",
    "runs",
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, with all files it concerns.

    Attributes:
        kind: One of ``KINDS``, by which :meth:`Study.check` can be told to ignore it.
        what: What is wrong, in words.
        remedy: What to do.
        files: The files, or where there are none the names, that it concerns.
        is_note: Whether it is about what the study lacks, and nothing is wrong with the runs that it has.
    """

    kind: str
    what: str
    remedy: str
    files: tuple[str, ...] = ()
    is_note: bool = False

    def __str__(self) -> str:
        said = len(self.files) == 1 and self.files[0] in self.remedy
        named = f" ({listing(self.files, MOST_FILES)})" if self.files and not said else ""
        return f"{self.kind}: {self.what}{named}: {self.remedy}"


def without_run(names: Collection[str], noun: str, where: str) -> list[Problem]:
    """Say which subjects, or rows of a table, have no run, if any."""
    what = f"{counted(len(names), noun)} {where}"
    remedy = "see whether their preprocessing failed, or a filter left them out"
    return [Problem("runs", what, remedy, tuple(sorted(names)), is_note=True)] if names else []


def listed(problems: Sequence[Problem]) -> str:
    """List the first problems, one a line, and count the others."""
    lines = [f"  {problem}" for problem in problems[:MOST_PROBLEMS]]
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"  and {len(problems) - MOST_PROBLEMS} more: check(errors='report').problems has them all")
    return "\n".join(lines)
