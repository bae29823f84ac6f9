"""How far a job is: one bar in a terminal, and a line a minute in a log."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from nstorm.data.wording import some_of

_REDRAWN = 0.1
_LOGGED = 60.0
_BAR = "prepare {percentage:3.0f}%|{bar:16}| {desc}"


class Progress:
    """Shows how many runs are done, the runs in work by their share, what they are in, and the speed.

    Args:
        frames: Number of frames of each run that is to be prepared, 0 where it is not known.
        there: Number of runs that are in the store already.
        show: Whether to show anything.
    """

    def __init__(self, frames: Mapping[str, int], there: int, show: bool) -> None:
        from tqdm import tqdm

        self._frames = frames
        self._there = there
        self._ended = 0
        self._volumes = 0
        self._running: dict[str, tuple[str, float]] = {}
        self._began = self._shown = time.monotonic()
        self._show = show
        self._bar: Any = None
        if show and sys.stderr.isatty():
            total = there + len(frames)
            self._bar = tqdm(initial=there, total=total, bar_format=_BAR, dynamic_ncols=True)
        if show and frames:
            self._draw()

    def moved(self, key: str, stage: str, share: float) -> None:
        """Show that a run is in a stage."""
        if not self._running and not self._ended:
            # workers take a while to begin
            self._began = time.monotonic()
        self._running[key] = (stage, share)
        self.tick()

    def ended(self, key: str, good: bool) -> None:
        """Show that a run is done, or has failed."""
        self._running.pop(key, None)
        self._ended += 1
        self._volumes += self._frames[key] if good else 0
        self.tick()

    def put_back(self, key: str) -> None:
        """Show that a run has to be begun again."""
        self._running.pop(key, None)

    def tick(self) -> None:
        """Show where the job is, if it was not shown just now."""
        if self._show and time.monotonic() - self._shown > (_LOGGED if self._bar is None else _REDRAWN):
            self._draw()

    def note(self, text: str) -> None:
        """Show a line that stays."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._show:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Show where the job ended."""
        self._running.clear()
        if self._show:
            self._draw()
        if self._bar is not None:
            self._bar.close()

    @property
    def done(self) -> float:
        """Number of runs that are done, with the shares of those in work."""
        return self._there + self._ended + sum((share for _, share in self._running.values()), 0.0)

    def __str__(self) -> str:
        from tqdm import tqdm

        total = self._there + len(self._frames)
        if not self._frames:
            return f"{total:,} runs, all in the store already"
        seconds = max(time.monotonic() - self._began, 1e-3)
        here = self.done - self._there
        volumes = self._volumes + sum(self._frames[key] * share for key, (_, share) in self._running.items())
        to_go = tqdm.format_interval((total - self.done) * seconds / here) if here else "?"
        in_work = [f"{key} {stage}" for key, (stage, _) in self._running.items()]
        return (
            f"{self._there + self._ended:,} of {total:,} runs, {volumes / seconds:,.0f} volumes/s, "
            f"{tqdm.format_interval(seconds)}<{to_go}{': ' if in_work else ''}{some_of(in_work, 1)}"
        )

    def _draw(self) -> None:
        self._shown = time.monotonic()
        if self._bar is None:
            share = self.done / max(self._there + len(self._frames), 1)
            print(f"prepare {share:4.0%}: {self}", file=sys.stderr, flush=True)
        else:
            self._bar.n = self.done
            self._bar.desc = str(self)
            self._bar.refresh()


def seldom(moved: Callable[[str, float], None], seconds: float) -> Callable[[str, float], None]:
    """Tell of a stage when it begins, and then at most once in so many seconds."""
    last = ("", 0.0)

    def told(stage: str, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if stage != last[0] or now - last[1] >= seconds:
            last = (stage, now)
            moved(stage, share)

    return told
