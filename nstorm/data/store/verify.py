"""Whether all of a store can be read, and is what was written."""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from os import PathLike
from typing import overload

import numpy as np

from nstorm.data.bars import bar
from nstorm.data.in_threads import in_threads
from nstorm.data.store.clean import leftovers
from nstorm.data.store.damages import Damage, damages_of
from nstorm.data.store.record import RunRecord
from nstorm.data.store.store import Store, read_record
from nstorm.data.store.stored_run import StoredRun
from nstorm.data.wording import counted


@dataclass(frozen=True, eq=False, repr=False)
class Verification(Sequence[Damage]):
    """What is damaged in a store: a sequence, empty where all is whole; printed, it says all in short.

    Attributes:
        damages: All that is damaged.
        num_runs: Number of runs that were looked at.
        num_bytes: Size of their frames.
        leftovers: Names of what killed jobs and former attempts have left, which does no harm.
    """

    damages: tuple[Damage, ...]
    num_runs: int
    num_bytes: int
    leftovers: tuple[str, ...]

    @overload
    def __getitem__(self, index: int) -> Damage: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Damage]: ...

    def __getitem__(self, index: int | slice) -> Damage | Sequence[Damage]:
        return self.damages[index]

    def __len__(self) -> int:
        return len(self.damages)

    def __repr__(self) -> str:
        lines = [f"{counted(self.num_runs, 'run')}, {self.num_bytes / 1e6:,.1f} MB, {counted(len(self), 'problem')}"]
        lines += [f"  {damage}" for damage in self.damages]
        if self.leftovers:
            left = counted(len(self.leftovers), "leftover")
            lines.append(f"{left} of killed jobs and replaced runs, which do no harm: nstorm clean removes them")
        return "\n".join(lines)


def verify(store: Store | str | PathLike[str], *, workers: int = 1, progress: bool = True) -> Verification:
    """Read all of a store, and compare it with what was written.

    Of every run the record, the attributes and each array are compared with their checksums and with each other. A
    chunk at a time is in memory.

    Args:
        store: The store, or its folder or URL. It is refreshed.
        workers: Number of processes.
        progress: Whether to show a progress bar.

    Returns:
        What is damaged; a sequence, empty where all is whole.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from nstorm.data import Store
        >>> from nstorm.data.store.verify import verify
        >>> from nstorm.data.store.write import write_run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(f"{folder}/store", create=True)
        ...     values, mask = np.random.randn(50, 6).astype("float32"), np.ones((1, 2, 3), bool)
        ...     record = write_run(store.place, "sub-1", values, mask, affine=np.eye(4), tr=2.0)
        ...     store.place.remove(f"{record.folder}/bold/c/1")
        ...     verify(store, progress=False)
        1 run, 0.0 MB, 1 problem
          sub-1: bold has no chunk with frames 20 to 39: take the run out with Store.remove, and prepare it again
    """
    store = store if isinstance(store, Store) else Store(store)
    left = leftovers(store)
    damages = [Damage(key, f"its record cannot be read ({said})") for key, said in store.damaged.items()]
    damages += [damage for found in in_threads(partial(_of_record, store), store.records.values()) for damage in found]
    sizes = [
        record.num_frames * record.num_voxels * np.dtype(record.dtype).itemsize for record in store.records.values()
    ]
    runs = [StoredRun(store.place, record) for record in store.records.values()]
    with bar(desc="verify", unit="B", unit_scale=True, total=sum(sizes), show=progress) as shown:
        for found, size in zip(_looked_at(runs, workers), sizes, strict=True):
            damages += found
            shown.update(size)
    return Verification(tuple(damages), len(runs), sum(sizes), tuple(left))


def _of_record(store: Store, record: RunRecord) -> list[Damage]:
    # what the store holds may come from the index
    try:
        if read_record(store.place, record.name).to_json() == record.to_json():
            return []
        what = f"the index of the store has another record than {record.name}"
    except (ValueError, OSError) as error:
        what = str(error)
    return [Damage(record.key, what)]


def _looked_at(runs: Sequence[StoredRun], workers: int) -> Iterator[list[Damage]]:
    if workers == 1:
        yield from map(damages_of, runs)
        return
    # Ctrl-C reaches them too, and is for who waits for them
    pool = ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        yield from pool.map(damages_of, runs)
    finally:
        # whoever interrupts does not wait for what has not begun
        pool.shutdown(cancel_futures=True)
