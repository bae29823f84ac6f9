"""One page on the quality of a study."""

import base64
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nstorm.data.bars import bar
from nstorm.data.files.atomic import written_whole
from nstorm.data.report.absent import absent_runs
from nstorm.data.report.figures import as_webp, carpet_figure, histogram_figure
from nstorm.data.report.outliers import FEWEST_PEERS, MOST_LENGTH_CHANGE, MOST_Z, RULES
from nstorm.data.report.slices import slices_figure
from nstorm.data.report.table import GridKey, chosen, grid_of_record, quality_arrays, table_of, usual_masks
from nstorm.data.report.words import facts_of, kinds_of, recipes_of, rows_of, summary_of
from nstorm.data.store.store import Store
from nstorm.data.store.stored_run import StoredRun

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

_HISTOGRAMS = (
    ("tsnr", "median tSNR", 1),
    ("dvars", "mean standardised DVARS", 1),
    ("displaced_share", "frames with FD > 0.5 mm, %", 100),
    ("volume", "volume of the mask, ml", 1),
    ("overlap", "overlap with the mean mask", 1),
    ("num_frames", "frames", 1),
)


def quality_report(
    store: Store,
    path: str | PathLike[str] = "report.html",
    *,
    runs: Iterable[str] | None = None,
    most: int = 50,
    progress: bool = True,
) -> Path:
    """Write one HTML page that shows the quality of the runs of a store, and names those that are unlike the others.

    The page stands alone: it needs no other file and no network. It has a summary of the study; the runs that are
    flagged and why (:func:`nstorm.data.report.table.quality_table`); a table of all runs that can be sorted and
    filtered; and pictures of some runs, the flagged ones first: carpet plot under framewise displacement, DVARS and
    global signal, and slices of the mean with the outline of the mask and of the temporal signal-to-noise ratio.

    All of it is about the runs as they were prepared. Memory is needed for one run at a time.

    Args:
        store: The prepared runs.
        path: The page; one that is there is replaced.
        runs: Names of the runs to look at; by default all.
        most: The most runs to show pictures of; they take about 0.15 MB each.
        progress: Whether to show progress bars.

    Returns:
        The path.

    Raises:
        KeyError: There is no such run.
        ValueError: There are no runs.

    Example:
        >>> import tempfile
        >>> from nstorm.data import Store, haxby_runs, load_bold, quality_report
        >>> from nstorm.data.store.write import write_run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(f"{folder}/store", create=True)
        ...     bold = load_bold(haxby_runs()[0].bold)
        ...     mask = (bold > 0).all(0).numpy()
        ...     values = bold.numpy()[:, mask]
        ...     _ = write_run(store.place, "run-1", values, mask, affine=bold.affine.numpy(), tr=2.5)
        ...     store.refresh()
        ...     page = quality_report(store, f"{folder}/report.html", progress=False).read_text()
        >>> "1 run" in page, page.count("<img")
        (True, 2)
    """
    import jinja2

    records = chosen(store, runs)
    usual = usual_masks(store, records, progress=progress)
    table = table_of(store, records, usual, progress=progress)
    shown = _shown(table, most)
    middle = float(table["tsnr"].median())
    scale = float(f"{2 * middle:.1g}") if middle > 0 else 1.0
    pictures = _Pictures(store, usual, scale)
    sections = [
        {
            "key": key,
            "problems": table.at[key, "problems"],
            "facts": facts_of(store[key], table.loc[key]),
            "pictures": pictures.of(key),
        }
        for key in bar(shown, "pictures", unit="run", show=progress)
    ]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(files("nstorm.data.report").joinpath("report.html").read_text("utf-8")).render(
        name=store.place.url.rsplit("/", 1)[-1],
        where=str(store.place),
        num_runs=len(table),
        num_flagged=int(_is_flagged(table).sum()),
        kinds=kinds_of(table),
        summary=summary_of(table),
        recipes=recipes_of(store, records),
        absent=absent_runs(store),
        histograms=_histograms(table),
        rules=RULES,
        limits={"z": MOST_Z, "peers": FEWEST_PEERS, "length": MOST_LENGTH_CHANGE},
        rows=rows_of(table, shown),
        sections=sections,
        made=f"nstorm {version('nstorm')}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    path = Path(path)
    with written_whole(path, overwrite=True) as temporary:
        temporary.write_text(page, "utf-8")
    return path


def _shown(table: "pandas.DataFrame", most: int) -> list[str]:
    """The flagged runs, those with most problems first, and others that lie evenly among all."""
    problems = table["problems"].str.len().sort_values(ascending=False, kind="stable")
    flagged = list(problems.index[problems > 0][:most])
    others = list(table.index[~_is_flagged(table)])
    places = np.linspace(0, len(others) - 1, min(len(others), most - len(flagged))).astype(int)
    return flagged + [others[place] for place in places]


def _histograms(table: "pandas.DataFrame") -> list[tuple[str, str]]:
    """Give pictures of the numbers that are not the same in all runs, with what they show."""
    if len(table) < FEWEST_PEERS:
        return []
    flagged = _is_flagged(table)
    return [
        (words, _embedded(histogram_figure(words, factor * table[column].to_numpy(np.float64), flagged)))
        for column, words, factor in _HISTOGRAMS
        if table[column].nunique() > 1
    ]


def _is_flagged(table: "pandas.DataFrame") -> NDArray[np.bool_]:
    return (table["problems"].str.len() > 0).to_numpy(bool)


class _Pictures:
    """Draws runs on scales that are the same for all."""

    def __init__(self, store: Store, usual: dict[GridKey, NDArray[np.uint8]], most_tsnr: float) -> None:
        self.store = store
        self.usual = usual
        self.most_tsnr = most_tsnr

    def of(self, key: str) -> Sequence[tuple[str, str]]:
        """Give pictures with what they show; none of a run that cannot be read, of which the table has the reason."""
        run = self.store[key]
        try:
            quality = quality_arrays(run)
            over_time = carpet_figure(quality["series"], quality["carpet"], run.tr, run.record.start_time)
            in_space = self._slices(run)
        except (ValueError, OSError):
            return []
        return [(f"Carpet plot of {key}", _embedded(over_time)), (f"Slices of {key}", _embedded(in_space))]

    def _slices(self, run: StoredRun) -> "Figure":
        mask = run.mask
        mean, tsnr = np.zeros((2, *mask.shape), np.float32)
        mean[mask] = run.mean
        tsnr[mask] = np.divide(run.mean, run.std, out=np.zeros_like(run.std), where=run.std > 0)
        bits = self.usual.get(grid_of_record(run.record))
        usual = None if bits is None else np.unpackbits(bits, count=mask.size).astype(bool).reshape(mask.shape)
        affine = np.array(run.record.affine)
        return slices_figure(mean, tsnr, mask, affine, usual=usual, most_tsnr=self.most_tsnr)


def _embedded(figure: "Figure") -> str:
    return f"data:image/webp;base64,{base64.b64encode(as_webp(figure)).decode()}"
