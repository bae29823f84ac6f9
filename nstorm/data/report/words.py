"""What the page says in words and numbers."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nstorm.data.preparation.presets import PRESETS
from nstorm.data.report.quality import FAR_DISPLACEMENT, FAR_DVARS
from nstorm.data.report.table import LABELS
from nstorm.data.store.record import RunRecord
from nstorm.data.store.store import Store
from nstorm.data.store.stored_run import StoredRun
from nstorm.data.wording import counted

if TYPE_CHECKING:
    import pandas

_MOST_VALUES = 8
# column of the table: its title on the page, the factor between them, and decimals
_COLUMNS = {
    "num_frames": ("frames", 1, 0),
    "tr": ("TR, s", 1, 3),
    "volume": ("mask, ml", 1, 0),
    "overlap": ("overlap", 1, 3),
    "tsnr": ("tSNR", 1, 0),
    "dvars": ("DVARS", 1, 2),
    "dvars_share": (f"DVARS > {FAR_DVARS:g}, %", 100, 1),
    "framewise_displacement": ("FD, mm", 1, 2),
    "displaced_share": (f"FD > {FAR_DISPLACEMENT:g} mm, %", 100, 1),
}


def summary_of(table: "pandas.DataFrame") -> list[tuple[str, str]]:
    """Describe a study: names and values."""
    seconds = float((table["num_frames"] * table["tr"]).sum())
    sizes = table["dtype"].map(lambda name: np.dtype(name).itemsize)
    # codes, and four numbers for each voxel
    stored = float((table["num_voxels"] * (table["num_frames"] * sizes + 16)).sum())
    return [
        ("runs", f"{len(table):,}"),
        ("subjects", f"{table['subject'].nunique():,}"),
        *((f"{name}s", _values(table[name])) for name in ("session", "task", "site") if table[name].any()),
        ("time", f"{seconds / 3600:,.1f} h, {table['num_frames'].sum():,} frames"),
        ("TR", _values(f"{tr:.4g} s" for tr in table["tr"])),
        ("frames a run", _values(table["num_frames"])),
        ("voxels", _values(table["grid"])),
        ("in the mask", _range(table["num_voxels"])),
        ("stored as", f"{_values(table['dtype'])}, about {_bytes(stored)}"),
    ]


def kinds_of(table: "pandas.DataFrame") -> list[tuple[str, str]]:
    """Count the runs that have a problem, by its kind."""
    kinds = Counter(problem.split(": ")[0] for problems in table["problems"] for problem in problems)
    return [(kind, counted(number, "run")) for kind, number in kinds.most_common()]


def recipes_of(store: Store, records: Sequence[RunRecord]) -> list[tuple[str, str, str]]:
    """Describe how runs were prepared: the name, how many, and parameters and versions of the first of them."""
    names = {recipe.digest: f"preset {name}" for name, recipe in PRESETS.items()}
    number = Counter(record.recipe for record in records)
    first = {record.recipe: record for record in reversed(records)}
    described = []
    for digest, times in number.most_common(_MOST_VALUES):
        try:
            attributes = StoredRun(store.place, first[digest]).attributes
        except (ValueError, OSError):
            attributes = {}
        kept = {name: attributes[name] for name in ("recipe", "versions") if name in attributes}
        name = names.get(digest, f"recipe {digest}" if digest else "recipe not known")
        described.append((name, counted(times, "run"), json.dumps(kept, indent=2) if kept else ""))
    return described


def rows_of(table: "pandas.DataFrame", shown: Sequence[str]) -> dict[str, Any]:
    """Give the table as the page's script takes it, without what is not known or what the names of the runs say."""
    anchors = {key: number for number, key in enumerate(shown, 1)}
    columns: dict[str, tuple[int | None, list[Any]]] = {"run": (None, list(table.index))}
    for label in LABELS:
        if any(value not in key for key, value in table[label].items()):
            columns[label] = (None, list(table[label]))
    if any(table["problems"]):
        columns["problems"] = (None, ["; ".join(problems) for problems in table["problems"]])
    for column, (title, factor, decimals) in _COLUMNS.items():
        if table[column].notna().any():
            values = (factor * table[column]).round(decimals)
            columns[title] = (decimals, [None if value != value else value for value in values.tolist()])
    return {
        "titles": list(columns),
        "decimals": [decimals for decimals, _ in columns.values()],
        "rows": list(zip(*(values for _, values in columns.values()), strict=True)),
        "pictures": [anchors.get(key) for key in table.index],
    }


def facts_of(run: StoredRun, row: "pandas.Series[Any]") -> list[tuple[str, str]]:
    """Describe a run: names and values."""
    record = run.record
    minutes, seconds = divmod(round(record.num_frames * record.tr), 60)
    facts = [
        ("frames", f"{record.num_frames:,} of {record.tr:.4g} s: {minutes} min {seconds:02d} s"),
        ("mask", f"{record.num_voxels:,} voxels, {row['volume']:,.0f} ml"),
    ]
    measured = {
        "overlap": ("overlap with the mean mask", "{:.3f}"),
        "tsnr": ("median tSNR", "{:.0f}"),
        "dvars": ("mean DVARS", "{:.2f}"),
        "dvars_share": (f"DVARS > {FAR_DVARS:g}", "{:.1%} of frames"),
        "framewise_displacement": ("mean FD", "{:.2f} mm"),
        "displaced_share": (f"FD > {FAR_DISPLACEMENT:g} mm", "{:.1%} of frames"),
    }
    facts += [
        (name, text.format(row[column])) for column, (name, text) in measured.items() if row[column] == row[column]
    ]
    facts += [("grid", row["grid"]), ("stored as", record.dtype)]
    if record.far:
        facts.append(("frames far from the others", ", ".join(map(str, record.far))))
    if source := record.sources.get("image"):
        facts.append(("from", str(source["path"])))
    return facts


def _values(values: Iterable[Any]) -> str:
    found = Counter(values).most_common()
    more = f", {len(found) - _MOST_VALUES:,} more" if len(found) > _MOST_VALUES else ""
    return ", ".join(f"{value or 'unknown'} ({number:,})" for value, number in found[:_MOST_VALUES]) + more


def _range(values: "pandas.Series[Any]") -> str:
    low, high = values.min(), values.max()
    return f"{low:,} voxels" if low == high else f"{low:,} to {high:,} voxels"


def _bytes(number: float) -> str:
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 1000:
            return f"{number:.3g} {unit}"
    return f"{number / 1000:,.3g} TB"
