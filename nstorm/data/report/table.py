"""The quality of all runs of a store, in one table."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray

from nstorm.data.bars import bar
from nstorm.data.clips.items import text_of
from nstorm.data.report.outliers import flags_of
from nstorm.data.report.quality import NUMBERS, quality_of
from nstorm.data.store.record import RunRecord
from nstorm.data.store.store import Store
from nstorm.data.store.stored_run import StoredRun

if TYPE_CHECKING:
    import pandas

LABELS = ("subject", "session", "task", "site")
# a mean of fewer masks says little; of more it changes no more
_FEWEST_MASKS, _MOST_MASKS = 3, 200
_THREADS = 8

# runs whose voxels are the same
GridKey = tuple[tuple[int, ...], tuple[float, ...]]


def quality_table(store: Store, runs: Iterable[str] | None = None, *, progress: bool = True) -> "pandas.DataFrame":
    """Put the quality of the runs of a store into a table, and flag the runs that are unlike the others.

    What was measured as a run was prepared is read; runs that have none of it, as converted ones, are measured now,
    one at a time.

    Args:
        store: The prepared runs.
        runs: Names of the runs to look at; by default all.
        progress: Whether to show a progress bar.

    Returns:
        A row for each run, named by it: ``subject``, ``session``, ``task`` and ``site``; ``num_frames``, ``tr`` in
        seconds, ``grid``, ``dtype``, ``num_voxels`` and ``volume`` of the brain in ml; ``overlap`` (Dice coefficient)
        of its mask with the mean mask of the runs on its grid; the entries of
        :data:`nstorm.data.report.quality.NUMBERS`; and ``problems``, a tuple of sentences that say in what it is unlike
        the others (:mod:`nstorm.data.report.outliers`) or why it cannot be read. NaN stands for what is not known.

    Raises:
        KeyError: There is no such run.
        ValueError: There are no runs.

    Example:
        >>> import tempfile
        >>> from nstorm.data import Store, haxby_runs, load_bold, quality_table
        >>> from nstorm.data.store.write import write_run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(f"{folder}/store", create=True)
        ...     for number, run in enumerate(haxby_runs()[:3], 1):
        ...         bold = load_bold(run.bold)
        ...         mask = (bold > 0).all(0).numpy()
        ...         values = bold.numpy()[:, mask]
        ...         _ = write_run(store.place, f"run-{number}", values, mask, affine=bold.affine.numpy(), tr=2.5)
        ...     store.refresh()
        ...     table = quality_table(store, progress=False)
        >>> table[["num_frames", "num_voxels", "tsnr"]].round()
               num_frames  num_voxels  tsnr
        run-1         121         530  87.0
        run-2         121         530  90.0
        run-3         121         530  98.0
    """
    records = chosen(store, runs)
    return table_of(store, records, usual_masks(store, records, progress=progress), progress=progress)


def table_of(
    store: Store, records: Sequence[RunRecord], usual: dict[GridKey, NDArray[np.uint8]], *, progress: bool
) -> "pandas.DataFrame":
    """Make the table of :func:`quality_table`."""
    import pandas

    reader = _Reader(store, usual, grid_names(records))
    with ThreadPoolExecutor(1 if store.place.local else _THREADS) as pool:
        found = bar(pool.map(reader.row, records), "quality", len(records), unit="run", show=progress)
        table = pandas.DataFrame(list(found), index=[record.key for record in records])
    compared = flags_of(table)
    broken = [(reason,) if reason else () for reason in table.pop("broken")]
    table["problems"] = [first + then for first, then in zip(broken, compared, strict=True)]
    return table


def chosen(store: Store, runs: Iterable[str] | None) -> list[RunRecord]:
    """Give the records of the runs that are asked for.

    Raises:
        KeyError: There is no such run.
        ValueError: There are no runs.
    """
    keys = list(store if runs is None else runs)
    if not keys:
        raise ValueError(f"there are no runs to look at in {store.place}: prepare a study first, or name runs")
    return [store[key].record for key in keys]


def grid_of_record(record: RunRecord) -> GridKey:
    """Name the grid of a run, such that grids that are the same have the same name."""
    return record.shape, tuple(round(number, 3) for row in record.affine for number in row)


def grid_names(records: Iterable[RunRecord]) -> dict[GridKey, str]:
    """Describe each of the grids of runs, such that no two are described alike."""
    names: dict[GridKey, str] = {}
    for grid in map(grid_of_record, records):
        if grid in names:
            continue
        shape, affine = grid[0], np.reshape(grid[1], (4, 4))
        sizes = [f"{size:.3g}" for size in np.linalg.norm(affine[:3, :3], axis=0)]
        spacing = sizes[0] if len(set(sizes)) == 1 else " x ".join(sizes)
        name = f"{' x '.join(map(str, shape))} of {spacing} mm, {''.join(aff2axcodes(affine))}"
        alike = sum(other.split(" (")[0] == name for other in names.values())
        names[grid] = f"{name} ({alike + 1})" if alike else name
    return names


def usual_masks(
    store: Store, records: Sequence[RunRecord], *, progress: bool = False
) -> dict[GridKey, NDArray[np.uint8]]:
    """Find the voxels that lie in the mask of at least every second run, as bits, for each grid of three runs or more.

    Up to 200 runs of a grid are looked at, which lie evenly among all.
    """
    on_grid = defaultdict(list)
    for record in records:
        on_grid[grid_of_record(record)].append(record)
    looked_at = {
        grid: [same[index] for index in np.linspace(0, len(same) - 1, min(len(same), _MOST_MASKS)).astype(int)]
        for grid, same in on_grid.items()
        if len(same) >= _FEWEST_MASKS
    }
    usual = {}
    number = sum(map(len, looked_at.values()))
    with bar(desc="masks", total=number, unit="run", leave=False, show=progress) as shown:
        for grid, some in looked_at.items():
            times = np.zeros(grid[0], np.int32)
            number = 0
            for record in some:
                shown.update()
                try:
                    times += StoredRun(store.place, record).mask
                except (ValueError, OSError):
                    # which its own row says
                    continue
                number += 1
            if number:
                usual[grid] = np.packbits(times.reshape(-1) * 2 >= number)
    return usual


def quality_arrays(run: StoredRun) -> dict[str, NDArray[Any]]:
    """Read what was measured of a run, or measure it."""
    if "numbers" in run.record.checksums:
        return {name: run.array(name) for name in ("series", "carpet", "numbers")}
    return quality_of(run.read_brain(0, run.num_frames), run.mask)


class _Reader:
    """Makes the rows of the table."""

    def __init__(self, store: Store, usual: dict[GridKey, NDArray[np.uint8]], names: dict[GridKey, str]) -> None:
        self.place = store.place
        self.usual = usual
        self.names = names
        # a run in memory at a time
        self.measures = Lock()

    def row(self, record: RunRecord) -> dict[str, Any]:
        run = StoredRun(self.place, record)
        voxel = abs(np.linalg.det(np.array(record.affine)[:3, :3]))
        row = {
            **{label: text_of(record.labels.get(label)) for label in LABELS},
            "num_frames": record.num_frames,
            "tr": record.tr,
            "grid": self.names[grid_of_record(record)],
            "dtype": record.dtype,
            "num_voxels": record.num_voxels,
            "volume": record.num_voxels * voxel / 1000,
        }
        numbers, overlap, broken = np.full(len(NUMBERS), np.nan), np.nan, ""
        try:
            numbers = self._numbers(run)
            overlap = self._overlap(run)
            if np.isnan(numbers[NUMBERS.index("tsnr")]):
                broken = "no voxel changes over time"
        except (ValueError, OSError) as error:
            broken = f"cannot be read: {error}"
        return {**row, "overlap": overlap, **dict(zip(NUMBERS, map(float, numbers), strict=True)), "broken": broken}

    def _numbers(self, run: StoredRun) -> NDArray[Any]:
        if "numbers" in run.record.checksums:
            return run.array("numbers")
        with self.measures:
            return quality_arrays(run)["numbers"]

    def _overlap(self, run: StoredRun) -> float:
        usual = self.usual.get(grid_of_record(run.record))
        if usual is None:
            return np.nan
        common = np.bitwise_count(run.array("mask") & usual).sum(dtype=np.int64)
        return float(2 * common / (run.record.num_voxels + np.bitwise_count(usual).sum(dtype=np.int64)))
