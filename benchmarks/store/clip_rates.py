"""Random clips a second, of several formats in turns.

Every process visits more runs than a dataset keeps open, in turn, so that each clip opens its run anew, as clips of
thousands of runs do. Warm: all files are in the page cache. Cold: all were dropped from it, and every run is read once.
"""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.store.page_cache import drop, load

PROCESSES = (1, 2)
BATCH = 4
Where = tuple[int, int]


@dataclass(frozen=True)
class Contestant:
    """Clips of a format.

    Attributes:
        name: What the clips are.
        clips: ``clips[run, draw]`` reads one.
        folder: What lies in it are the runs.
        num_frames: Of each run.
        collate: Makes a batch of clips.
    """

    name: str
    clips: Dataset[Any]
    folder: Path
    num_frames: int
    collate: Callable[[Any], Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a clip."""
        clip = self.clips[0, 0]
        return tuple((clip["image"] if isinstance(clip, dict) else clip).shape)


@dataclass(frozen=True)
class Rates:
    """Medians over rounds.

    Attributes:
        warm: Clips a second by the number of processes.
        cold: The same after the files were dropped from memory.
        loader: The same in batches, from worker processes of a loader to this one, warm.
        cpu: Seconds of CPU a clip, of one process, warm.
    """

    warm: Mapping[int, float]
    cold: Mapping[int, float]
    loader: Mapping[int, float]
    cpu: float


def measure(contestants: Sequence[Contestant], num_runs: int, rounds: int, turns: int) -> list[Rates]:
    """Measure all contestants in each round; warm clips are so many of each run."""
    found: list[dict[tuple[str, int], list[float]]] = [{} for _ in contestants]

    def note(number: int, what: str, processes: int, value: float) -> None:
        found[number].setdefault((what, processes), []).append(value)

    for this_round in range(rounds):
        draws = range(this_round * turns, (this_round + 1) * turns)
        whole = [(run, draw) for draw in draws for run in range(num_runs)]
        for number, contestant in enumerate(contestants):
            load(contestant.folder)
            for processes in PROCESSES:
                rate, cpu = _in_processes(contestant, [whole] * processes, cold=False)
                note(number, "warm", processes, rate)
                note(number, "cpu", processes, cpu)
                note(number, "loader", processes, _in_batches(contestant, whole, processes))
            for processes in PROCESSES:
                shares = [whole[:num_runs][first::processes] for first in range(processes)]
                note(number, "cold", processes, _in_processes(contestant, shares, cold=True)[0])
    medians = [{key: median(values) for key, values in each.items()} for each in found]
    return [
        Rates(
            **{what: {n: each[what, n] for n in PROCESSES} for what in ("warm", "cold", "loader")}, cpu=each["cpu", 1]
        )
        for each in medians
    ]


def table(contestants: Sequence[Contestant], rates: Sequence[Rates]) -> str:
    """Write the rates as a table."""
    kinds = [f"{kind} {number}" for kind in ("warm", "cold", "loader") for number in PROCESSES]
    lines = [
        f"| clips a second | clip | {' | '.join(kinds)} | CPU ms a clip |",
        "|---|---|" + "---|" * (len(kinds) + 1),
    ]
    for contestant, found in zip(contestants, rates, strict=True):
        values = [each[number] for each in (found.warm, found.cold, found.loader) for number in PROCESSES]
        columns = [f"{value:.1f}" for value in [*values, 1e3 * found.cpu]]
        lines.append(f"| {contestant.name} | {contestant.shape} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _in_processes(contestant: Contestant, shares: Sequence[Sequence[Where]], *, cold: bool) -> tuple[float, float]:
    """Read a share of clips in each process at the same time: clips a second of all, seconds of CPU a clip."""
    context = multiprocessing.get_context("fork")
    ready, begin, end = (context.Barrier(len(shares) + 1) for _ in range(3))
    cpu = context.Value("d", 0.0)

    def read(share: Sequence[Where]) -> None:
        torch.set_num_threads(1)
        # of a copy, so that the run is not open yet
        deepcopy(contestant.clips)[share[0]]
        ready.wait()
        begin.wait()
        before = time.process_time()
        for where in share:
            contestant.clips[where]
        with cpu.get_lock():
            cpu.value += time.process_time() - before
        end.wait()

    processes = [context.Process(target=read, args=(share,)) for share in shares]
    for process in processes:
        process.start()
    ready.wait()
    if cold:
        drop(contestant.folder)
    begin.wait()
    start = time.perf_counter()
    end.wait()
    seconds = time.perf_counter() - start
    for process in processes:
        process.join()
    number = sum(map(len, shares))
    return number / seconds, cpu.value / number


def _in_batches(contestant: Contestant, whole: Sequence[Where], workers: int) -> float:
    """Read batches through a loader: clips a second in its second epoch, when its workers are there."""
    loader: DataLoader[Any] = DataLoader(
        contestant.clips,
        batch_size=BATCH,
        sampler=whole,
        num_workers=workers,
        collate_fn=contestant.collate,
        persistent_workers=True,
    )
    for _ in loader:
        pass
    start = time.perf_counter()
    for _ in loader:
        pass
    return len(whole) / (time.perf_counter() - start)
