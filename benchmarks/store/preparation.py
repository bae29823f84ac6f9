"""Volumes a second of preparing runs, and the memory that it takes."""

import multiprocessing
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.store.published_format import write_data
from nstorm.data import Study, haxby_runs, load_bold, load_mask, prepare, prepare_published, run_item

SAMPLING = 0.02
Items = Sequence[Mapping[str, Any]]
Work = Callable[[Items, Path], object]


@dataclass(frozen=True)
class Preparation:
    """What preparing some runs took.

    Attributes:
        seconds: Of wall time; worker processes that have to start first are part of it.
        peak: The largest resident memory of the process and those that it started, together, in bytes.
    """

    seconds: float
    peak: int


def ours(items: Items, folder: Path, *, preset: str, workers: int) -> None:
    prepare(Study(items), folder, preset=preset, workers=workers, progress=False)


def nothing(items: Items, folder: Path) -> None:
    """Stay until the memory has been looked at."""
    time.sleep(5 * SAMPLING)


def published(items: Items, folder: Path, *, workers: int) -> None:
    one = partial(_publish, folder=folder)
    if workers == 1:
        for item in items:
            one(item)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(one, items))


def table(items: Items, num_frames: int, root: Path) -> dict[str, float]:
    """Prepare runs in each way, those of two processes to stay below ``root``: volumes a second of one process."""
    ways: dict[str, tuple[Callable[..., None], int]] = {
        "native": (partial(ours, preset="native"), len(items)),
        "published": (partial(ours, preset="published"), len(items)),
        "4mm": (partial(ours, preset="4mm"), 4),
        "data.pt": (published, 2),
    }
    print("| preset, or published format | processes | runs | volumes/s | peak MB together |\n|---|---|---|---|---|")
    print(f"| nothing, after imports | 1 | 0 | - | {measured(nothing, [], root).peak / 1e6:.0f} |")
    speeds: dict[str, float] = {}
    for name, (work, most) in ways.items():
        for workers, where, number in ((1, root / "one", 2), (2, root / name, most)):
            found = measured(partial(work, workers=workers), items[:number], where)
            speed = number * num_frames / found.seconds
            speeds.setdefault(name, speed)
            print(f"| {name} | {workers} | {number} | {speed:.0f} | {found.peak / 1e6:.0f} |", flush=True)
            shutil.rmtree(root / "one", ignore_errors=True)
    return speeds


def measured(work: Work, items: Items, folder: Path) -> Preparation:
    """Do the work in a fresh process."""
    context = multiprocessing.get_context("spawn")
    connection, there = context.Pipe()
    process = context.Process(target=_do, args=(there, work, items, folder))
    process.start()
    there.close()
    assert process.pid is not None
    done = threading.Event()
    peaks: list[int] = [0]
    watch = threading.Thread(target=_watch, args=(process.pid, done, peaks))
    watch.start()
    try:
        seconds = connection.recv()
    except EOFError:
        raise RuntimeError(f"{work} failed: above it says why") from None
    finally:
        done.set()
        watch.join()
        process.join()
    return Preparation(seconds, max(peaks))


def _do(connection: "Connection[float, object]", work: Work, items: Items, folder: Path) -> None:
    # what is imported at the first use does not count
    with tempfile.TemporaryDirectory() as elsewhere:
        ours([run_item(haxby_runs()[0].bold)], Path(elsewhere), preset="native", workers=1)
    start = time.perf_counter()
    work(items, folder)
    connection.send(time.perf_counter() - start)


def _publish(item: Mapping[str, Any], folder: Path) -> None:
    # as nstorm's workers have it
    torch.set_num_threads(1)
    bold = load_bold(item["image"])
    frames, step = prepare_published(bold, mask=load_mask(item["mask"], like=bold), quantize=True)
    write_data(folder / f"sub-{item['subject']}", frames.as_subclass(torch.Tensor), step)


def _watch(pid: int, done: threading.Event, peaks: list[int]) -> None:
    while not done.wait(SAMPLING):
        peaks.append(sum(map(_resident_bytes, _tree(pid))))


def _tree(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        # it has ended
        return []
    return [pid, *(below for child in children for below in _tree(child))]


def _resident_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)
