"""What is kept of how a run was prepared."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from nstorm.data.preparation.recipe import Recipe

PACKAGES = ("nstorm", "numpy", "torch", "monai", "nibabel", "nilearn", "zarr")


def provenance(source: Mapping[str, Any], recipe: Recipe, began: float) -> dict[str, Any]:
    """Describe a run as it was stored, what was done with it, and by what; times of the clock only under ``times``.

    Args:
        source: The run as it was stored.
        recipe: What was done with it.
        began: When that began, by :func:`time.monotonic`.
    """
    return {
        "source": source,
        "recipe": asdict(recipe),
        "versions": {package: version(package) for package in PACKAGES},
        "times": {
            "prepared_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 3),
        },
    }
