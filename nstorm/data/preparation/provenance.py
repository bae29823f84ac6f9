"""What is kept of how a run was prepared."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from nstorm.data.clips.events import read_events
from nstorm.data.files.nifti import open_nifti
from nstorm.data.files.reader import BOLDFile
from nstorm.data.preparation.recipe import Recipe

PACKAGES = ("nstorm", "numpy", "torch", "monai", "nibabel", "nilearn", "zarr")


def provenance(file: BOLDFile, recipe: Recipe, began: float) -> dict[str, Any]:
    """Describe a run as it was stored, what was done with it, and by what; times of the clock only under ``times``.

    Args:
        file: The run.
        recipe: What was done with it.
        began: When that began, by :func:`time.monotonic`.
    """
    return {
        "source": {
            "shape": file.shape,
            "affine": file.affine.tolist(),
            "tr": file.tr,
            "dtype": str(file.dtype),
            "space_code": open_nifti(file.path).space_code,
        },
        "recipe": asdict(recipe),
        "versions": {package: version(package) for package in PACKAGES},
        "times": {
            "prepared_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 3),
        },
    }


def kept_events(path: str) -> list[Mapping[str, Any]]:
    """Read the events of a run; their times stay those after the start of the recording.

    A duration that is not known is None.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no table of events.
    """
    try:
        events = read_events(path)
    except ValueError as error:
        raise ValueError(f"{error}, or leave 'events' out of the run's item") from error
    return [{**asdict(event), "duration": None if math.isnan(event.duration) else event.duration} for event in events]
