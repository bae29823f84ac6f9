"""A study at a glance."""

from collections import Counter
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

from nstorm.data.clips.items import FILES, IDENTITY, text_of
from nstorm.data.study.runs import VERSION
from nstorm.data.study.table import Row, is_unknown
from nstorm.data.wording import counted

MOST_VALUES = 6
# what a run has, not a subject
_OF_RUN = {*IDENTITY, *VERSION, "tr"}


def summary(runs: Sequence[Row]) -> str:
    """Tell in a line for each key what a study has; what no run has is left out."""
    subjects = {run["subject"] for run in runs}
    lines = {}
    for key in dict.fromkeys(key for run in runs for key in run if key not in ("image", "subject")):
        known = [run for run in runs if not is_unknown(run.get(key))]
        if not known:
            continue
        if key in FILES:
            lines[key] = f"{len(known):,} of {counted(len(runs), 'run')}"
        elif key in _OF_RUN:
            lines[key] = _values(run[key] for run in known)
        else:
            # a subject of many runs counts once
            of_subject = {(run["subject"], run[key]) for run in known}
            number = len({subject for subject, _ in of_subject})
            lines[key] = (
                f"{_values(value for _, value in of_subject)}; {number:,} of {counted(len(subjects), 'subject')}"
            )
    lines.setdefault("tr", "not read: check() reads the headers")
    width = max(map(len, lines))
    title = f"Study of {counted(len(runs), 'run')} of {counted(len(subjects), 'subject')}"
    return "\n".join([title, *(f"  {key:<{width}}  {line}" for key, line in lines.items())])


def _values(values: Iterable[Any]) -> str:
    numbers = Counter(values)
    if len(numbers) > MOST_VALUES and all(isinstance(value, Real) for value in numbers):
        return f"{min(numbers):g} to {max(numbers):g}"
    # the order of a table, not of its hashes
    shown = sorted(numbers.items(), key=lambda pair: (-pair[1], text_of(pair[0])))
    more = f", {len(shown) - MOST_VALUES} more" if len(shown) > MOST_VALUES else ""
    return ", ".join(f"{text_of(value)} ({number:,})" for value, number in shown[:MOST_VALUES]) + more
