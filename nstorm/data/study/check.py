"""Everything that is wrong with a study, found before any work."""

from collections.abc import Collection, Iterable, Sequence

from nstorm.data.bars import bar
from nstorm.data.study.check_files import file_problems
from nstorm.data.study.check_items import item_problems
from nstorm.data.study.labels import Joined
from nstorm.data.study.look import look_at_files
from nstorm.data.study.problem import KINDS, Problem
from nstorm.data.study.report import Report
from nstorm.data.study.selection import some
from nstorm.data.study.table import Row


def checked(
    runs: Sequence[Row],
    joined: Sequence[Joined],
    known: Iterable[Problem],
    *,
    ignore: Collection[str],
    labels: Collection[str],
    min_frames: int,
    progress: bool,
) -> Report:
    """Look at the items and the files of runs, and add what is found to the problems that are known already.

    Raises:
        ValueError: ``ignore`` names no kind, or ``labels`` no label.
    """
    if odd := [kind for kind in ignore if kind not in KINDS]:
        raise ValueError(f"ignore names {some(odd)}, but the kinds of problems are {', '.join(KINDS)}")
    keys = dict.fromkeys(key for run in runs for key in run)
    if odd := [label for label in labels if label not in keys]:
        raise ValueError(f"labels names {some(odd)}, which no run has: choose among {', '.join(keys)}")
    seen = list(bar(look_at_files(runs), "check", len(runs), unit="run", show=progress))
    found = [*item_problems(runs, joined, labels), *file_problems(runs, seen, min_frames), *known]
    problems = sorted((each for each in found if each.kind not in ignore), key=lambda each: KINDS.index(each.kind))
    headers = {run["image"]: one.header for run, one in zip(runs, seen, strict=True) if one.header is not None}
    return Report(tuple(problems), headers)
