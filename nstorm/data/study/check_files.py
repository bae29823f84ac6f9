"""What is wrong with the files of a study."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from nstorm.data.study.look import Seen
from nstorm.data.study.problem import Problem
from nstorm.data.study.report import RunHeader
from nstorm.data.study.table import Row
from nstorm.data.wording import counted

_NOUNS = {"confounds": "confounds table"}


def file_problems(runs: Sequence[Row], seen: Sequence[Seen], min_frames: int) -> Iterator[Problem]:
    """List what is wrong: files that are not there or cannot be used, few frames, TRs and grids that differ."""
    absent: dict[tuple[str, bool], list[str]] = defaultdict(list)
    faulty: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for run, found in zip(runs, seen, strict=True):
        for key in found.absent:
            absent[key, os.path.islink(run[key])].append(run[key])
        for kind, fault in found.faults.items():
            # one fault of many files is one problem
            faulty[kind, fault.replace(run[kind], "...")].append((run[kind], fault))
    # runs may share a file, as two spaces their confounds
    for (key, is_link), files in absent.items():
        named = tuple(dict.fromkeys(files))
        yield _absent(key, named) if not is_link else _not_fetched(key, named)
    for (kind, _), cases in faulty.items():
        named = tuple(dict.fromkeys(file for file, _ in cases))
        yield Problem(kind, f"{counted(len(named), _NOUNS.get(kind, kind))} of no use", cases[0][1], named)
    headers = {run["image"]: found.header for run, found in zip(runs, seen, strict=True) if found.header}
    yield from _too_short(headers, min_frames)
    yield from _times_that_differ(headers)
    yield from _grids_that_differ(headers)


def _absent(key: str, files: tuple[str, ...]) -> Problem:
    return Problem(key, f"{counted(len(files), 'file')} of {key} not there", "correct the paths, or fetch them", files)


def _not_fetched(key: str, files: tuple[str, ...]) -> Problem:
    what = f"{counted(len(files), 'file')} of {key} not fetched, links that lead nowhere"
    return Problem(key, what, "fetch them, as with datalad get", files)


def _too_short(headers: Mapping[str, RunHeader], min_frames: int) -> Iterator[Problem]:
    if files := tuple(image for image, header in headers.items() if header.num_frames < min_frames):
        what = f"{counted(len(files), 'run')} of fewer than {min_frames} frames"
        yield Problem("frames", what, "leave them out, or pass a smaller min_frames", files)


def _times_that_differ(headers: Mapping[str, RunHeader]) -> Iterator[Problem]:
    numbers = Counter(round(header.tr, 3) for header in headers.values()).most_common()
    if len(numbers) > 1:
        usual = numbers[0][0]
        files = tuple(image for image, header in headers.items() if round(header.tr, 3) != usual)
        times = ", ".join(f"{tr:g} s ({counted(number, 'run')})" for tr, number in numbers[:5])
        remedy = "bring them to one with nstorm.data.resample_time, count clips in seconds, or ignore 'tr'"
        yield Problem("tr", f"{len(numbers)} repetition times, {times}; of all but the first", remedy, files)


def _grids_that_differ(headers: Mapping[str, RunHeader]) -> Iterator[Problem]:
    grids = {id(header.grid): header.grid for header in headers.values()}
    numbers = Counter(id(header.grid) for header in headers.values()).most_common()
    usual = grids[numbers[0][0]] if numbers else None
    others = {number for number, grid in grids.items() if grid != usual}
    if files := tuple(image for image, header in headers.items() if id(header.grid) in others):
        assert usual is not None
        shape, spacing = ("x".join(f"{size:.3g}" for size in sizes) for sizes in (usual.shape, usual.spacing))
        most = f"{len(headers) - len(files):,} of {shape} voxels of {spacing} mm"
        what = f"{counted(len(files), 'run')} on another grid than the {most}"
        yield Problem("grid", what, "bring them to one with nstorm.data.resample_space, or ignore 'grid'", files)
