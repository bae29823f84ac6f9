"""The options that say how many runs are worked on, and by whom."""

import argparse
import re
from typing import Any

from nstorm.cli.numbers import at_least

_NAMES = ("workers", "scheduler", "part", "one_file", "strict", "overwrite")


def add_work(parser: argparse.ArgumentParser) -> Any:
    """Add the options to a parser, and give their group."""
    work = parser.add_argument_group("how it is done")
    work.add_argument("--workers", type=at_least(1), default=1, metavar="N", help="processes (default: %(default)s)")
    work.add_argument(
        "--scheduler", metavar="ADDRESS", help="a Dask scheduler, as tcp://node1:8786, whose workers work"
    )
    work.add_argument("--part", type=_part, metavar="K/N", help="every N-th run from the K-th, for jobs of a cluster")
    work.add_argument("--one-file", action="store_true", help="keep a run's frames in one file, where files are few")
    work.add_argument("--strict", action="store_true", help="stop at the first run that fails")
    work.add_argument("--overwrite", action="store_true", help="do runs again that were done otherwise")
    return work


def work_of(args: argparse.Namespace) -> dict[str, Any]:
    """Give the options as arguments of :func:`nstorm.data.prepare` and :func:`nstorm.data.convert_published`."""
    return {name: getattr(args, name) for name in _NAMES}


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no part: give K/N, as 3/16 for the third of 16")
    return int(match[1]), int(match[2])
