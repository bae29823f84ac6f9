"""Numbers that options take."""

import argparse
from collections.abc import Callable


def at_least(fewest: int) -> Callable[[str], int]:
    """Make a reader of counts."""

    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < fewest:
            raise argparse.ArgumentTypeError(f"{text!r} is no count: give {fewest} or more")
        return int(text)

    return count
