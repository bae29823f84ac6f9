"""What the check of a study found."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from nstorm.data.space.grid import Grid
from nstorm.data.study.problem import Problem, listed
from nstorm.data.wording import counted


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What the header of a run says.

    Attributes:
        num_frames: Number of frames.
        tr: The repetition time in seconds.
        grid: Where its voxels lie.
    """

    num_frames: int
    tr: float
    grid: Grid


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The problems of a study and the headers of its runs; printed, it shows both in short.

    Attributes:
        problems: What is wrong, but for the kinds that were to be ignored.
        headers: The header of each image that can be read, by its path.
    """

    problems: tuple[Problem, ...]
    headers: Mapping[str, RunHeader]

    @property
    def repetition_times(self) -> dict[float, int]:
        """The repetition times in seconds, to 1 ms, and the number of runs of each, the most frequent first."""
        return dict(Counter(round(header.tr, 3) for header in self.headers.values()).most_common())

    def __repr__(self) -> str:
        frames = sum(header.num_frames for header in self.headers.values())
        hours = sum(header.num_frames * header.tr for header in self.headers.values()) / 3600
        times = ", ".join(f"{tr:g} s ({number:,})" for tr, number in list(self.repetition_times.items())[:8])
        problems = f"{counted(len(self.problems), 'problem')}" + (":\n" if self.problems else "")
        return (
            f"{counted(len(self.headers), 'readable run')}, {counted(frames, 'frame')}, {hours:,.1f} h\n"
            f"TR {times or 'unknown'}\n{problems}{listed(self.problems)}"
        )
