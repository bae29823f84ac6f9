"""Which runs of a study have the same name, and which images are listed twice."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from nstorm.data.clips.items import FILES, IDENTITY, recording_of, text_of
from nstorm.data.study.problem import Problem
from nstorm.data.study.runs import VERSION
from nstorm.data.study.selection import some
from nstorm.data.study.table import Row
from nstorm.data.wording import counted

# what is meant where there are several: echoes combined, and the magnitude
_MEANT = {"echo": ("",), "part": ("mag", "")}


def duplicate_problems(runs: Sequence[Row]) -> Iterator[Problem]:
    """List images that are there twice, and runs that have several images; subjects that are not known are left out."""
    numbers = Counter(os.path.abspath(run["image"]) for run in runs)
    if files := tuple(image for image, number in numbers.items() if number > 1):
        what = f"{counted(len(files), 'image')} listed more than once"
        yield Problem("duplicate", what, "keep one row for each, or correct the paths", files)

    of_recording: dict[str, dict[str, Row]] = defaultdict(dict)
    for run in runs:
        if run["subject"]:
            of_recording[recording_of(run)][run["image"]] = run
    # a study with two spaces has one problem, not one for each run
    by_difference: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for images in of_recording.values():
        if len(images) > 1:
            by_difference[_difference(list(images.values()))] += images.values()
    for keys, several in by_difference.items():
        yield _duplicates(keys, several)


def _difference(runs: Sequence[Row]) -> tuple[str, ...]:
    keys = dict.fromkeys(key for run in runs for key in run if key not in (*FILES, *IDENTITY))
    numbers = {key: len({text_of(run.get(key)) for run in runs}) for key in keys}
    # a resolution goes with its space, which says enough
    if numbers.get("space") == len(runs):
        return ("space",)
    return tuple(sorted(key for key, number in numbers.items() if number > 1))


def _duplicates(keys: Sequence[str], runs: Sequence[Row]) -> Problem:
    what = f"{counted(len(runs), 'image')} of which several are of one run"
    apart = "tell them apart by session, task, acquisition, direction or run"
    images = tuple(sorted(run["image"] for run in runs))
    if not keys:
        return Problem("duplicate", what, f"{apart}, or keep one of each", images)
    values = {key: {text_of(run.get(key)) for run in runs} for key in keys}
    meant = {key: next((repr(value) for value in _MEANT.get(key, ()) if value in values[key]), "...") for key in keys}
    remedy = f"choose one, as with where({', '.join(f'{key}={value}' for key, value in meant.items())})"
    if "echo" in keys:
        is_combined = meant["echo"] != "..."
        remedy = f"{remedy}, the echoes combined" if is_combined else f"combine the echoes with tedana, or {remedy}"
    if not VERSION.issuperset(keys):
        remedy = f"{apart}, or {remedy}"
    return Problem("duplicate", f"{what}, in {'; '.join(f'{key} {some(values[key])}' for key in keys)}", remedy, images)
