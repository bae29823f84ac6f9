"""Run items that share their keys."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from nstorm.data.clips.items import IDENTITY, run_item
from nstorm.data.study.selection import bare
from nstorm.data.study.table import Row, is_unknown, uniform

# BIDS's entities that tell versions of one recording apart
VERSION = frozenset({"ce", "rec", "echo", "part", "space", "cohort", "res", "den", "hemi", "desc"})
# keys that a run without them lacks: "" and NaN would be taken for a file and a time
OPTIONAL = ("tr", "events")


def completed(runs: Sequence[Row]) -> list[Row]:
    """Give all runs the same keys, but for those that are left out where they are not known."""
    return [
        {key: value for key, value in run.items() if key not in OPTIONAL or not is_unknown(value)}
        for run in uniform(runs)
    ]


def described(run: Mapping[str, Any]) -> Row:
    """Make the item of a run; what is not given of its subject, session and so on is taken from its BIDS name.

    Raises:
        KeyError: The run has no image.
        ValueError: The image is no path.
    """
    if "image" not in run:
        raise KeyError(f"a run has only the keys {list(run)}: give it the key 'image', its file")
    if not isinstance(run["image"], str | PathLike):
        raise ValueError(f"the image of a run is a {type(run['image']).__name__}, but the runs of a study are files")
    # what a table leaves empty may stand in the BIDS name
    known = {key: value for key, value in run.items() if key not in IDENTITY or not is_unknown(value)}
    item = run_item(**known)
    return {**item, **{key: bare(key, item[key]) for key in IDENTITY}}
