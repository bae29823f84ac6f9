"""The recordings that ship with nstorm; each folder of ``recordings`` states origin, licence and citation."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

HAXBY_DELAY = 0.0
"""Haemodynamic delay of the Haxby runs in seconds: their onsets are volume labels, which contain the lag."""


@dataclass(frozen=True, slots=True)
class EmbeddedRun:
    """A task run: its BOLD image and its events."""

    bold: Path
    events: Path


@dataclass(frozen=True, slots=True)
class EmbeddedRestRun:
    """A run without a task: its BOLD image and its brain mask."""

    bold: Path
    mask: Path


def haxby_runs() -> list[EmbeddedRun]:
    """List the twelve runs of one person who looked at eight categories of objects (Haxby et al. 2001).

    Every run is half of one slice at native resolution over ventral and occipital cortex: 40 x 20 x 1 voxels,
    121 frames, TR 2.5 s. Licence CC BY-SA 3.0.

    Example:
        >>> from nstorm.data import haxby_runs
        >>> len(haxby_runs())
        12
    """
    images = sorted(_folder("haxby2001").glob("*_bold.nii.gz"))
    return [EmbeddedRun(bold, _events_of(bold)) for bold in images]


def rest_run() -> EmbeddedRestRun:
    """Give a run without a task that covers the whole brain, an excerpt of rapidtide's test data.

    It has 48 x 56 x 48 voxels of 4 mm in MNI152 space and 200 frames, TR 1.5 s. Licence Apache-2.0.

    Example:
        >>> from nstorm.data import rest_run
        >>> rest_run().mask.name
        'sub-RAPIDTIDETEST_task-rest_space-MNI152_res-4mm_desc-brain_mask.nii.gz'
    """
    folder = _folder("rapidtide_rest")
    stem = "sub-RAPIDTIDETEST_task-rest_space-MNI152_res-4mm"
    return EmbeddedRestRun(folder / f"{stem}_bold.nii.gz", folder / f"{stem}_desc-brain_mask.nii.gz")


def _folder(recording: str) -> Path:
    return Path(str(files("nstorm.data"))) / "recordings" / recording


def _events_of(bold: Path) -> Path:
    return bold.with_name(bold.name.replace("_res-1slice_bold.nii.gz", "_events.tsv"))
