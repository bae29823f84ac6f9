"""What was measured, for as many frames as the published models saw."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.store.clip_rates import Contestant, Rates
from benchmarks.store.contestants import CLIP
from benchmarks.store.page_cache import files_below, num_bytes

FRAMES = 28_650_000
DAY = 86_400


@dataclass(frozen=True)
class Measured:
    """What one format was found to take, on one machine.

    Attributes:
        frame_bytes: Bytes a frame: of all files of a run over its frames.
        run_files: Files a run.
        run_frames: Frames of a run.
        warm: Clips a second of one process, from memory.
        cold: The same, from the disk.
        prepared: Runs a second that one process prepares; None where that was not measured.
    """

    frame_bytes: float
    run_files: float
    run_frames: int
    warm: float
    cold: float
    prepared: float | None = None

    @classmethod
    def of(cls, contestant: Contestant, num_runs: int, rates: Rates) -> "Measured":
        """Look at the files of a format."""
        num_files = sum(1 for _ in files_below(contestant.folder))
        num_frames = num_runs * contestant.num_frames
        return cls(
            num_bytes(contestant.folder) / num_frames,
            num_files / num_runs,
            contestant.num_frames,
            rates.warm[1],
            rates.cold[1],
        )

    def prepared_at(self, runs_a_second: float) -> "Measured":
        """Say how fast runs are prepared."""
        return replace(self, prepared=runs_a_second)


def page(formats: Mapping[str, Measured], machine: str) -> str:
    """Write the page, in Markdown."""
    lines = [
        f"# {FRAMES / 1e6:.2f} million frames",
        "",
        "Extrapolated from rates that were measured on one machine, in one run of `python -m benchmarks.store`, with "
        f"runs as long as there. An epoch reads every frame once, in random clips of {CLIP} frames; one in a day takes "
        f"{FRAMES / DAY:.0f} frames or {FRAMES / CLIP / DAY:.1f} clips a second. Cold is what to plan with: terabytes "
        "do not stay in memory. Processes are taken to add up; how many a shared file system keeps pace with has to be "
        "measured there.",
        "",
        f"Machine: {machine}",
        "",
        "| format | TB | million files | preparation by 1 process, h | by 16, h | epoch by 1 process, warm, h "
        "| cold, h | processes for an epoch a day, cold |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(name, each) for name, each in formats.items()]
    return "\n".join(lines) + "\n"


def _row(name: str, each: Measured) -> str:
    hours = None if each.prepared is None else FRAMES / each.run_frames / each.prepared / 3600
    prepared = "- | -" if hours is None else f"{hours:.0f} | {hours / 16:.1f}"
    warm, cold = (FRAMES / CLIP / rate / 3600 for rate in (each.warm, each.cold))
    return (
        f"| {name} | {FRAMES * each.frame_bytes / 1e12:.2f} "
        f"| {FRAMES / each.run_frames * each.run_files / 1e6:.2f} | {prepared} | {warm:.1f} | {cold:.1f} "
        f"| {cold / 24:.1f} |"
    )
