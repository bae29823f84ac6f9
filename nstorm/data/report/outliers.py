"""Which runs are unlike the others, and in what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from nstorm.data.normalize import MAD_TO_STD
from nstorm.data.report.quality import FAR_DISPLACEMENT, FAR_DVARS

if TYPE_CHECKING:
    import pandas

MOST_Z = 3.5
"""Robust z-score beyond which a run is an outlier (Iglewicz and Hoaglin 1993)."""

FEWEST_PEERS = 5
"""Among fewer runs than this there are no outliers."""

MOST_LENGTH_CHANGE = 0.2
"""Part of the usual number of frames by which a run may be shorter or longer."""


@dataclass(frozen=True)
class Rule:
    """A number of a run that is compared with those of the others.

    Attributes:
        column: Its name in the table.
        words: What it is.
        bad: Which side of the others is bad.
        least: A spread of the others that is taken at least, such that runs which are all but alike are no outliers.
        relative: Whether that is a part of their median.
        limit: A number beyond which a run is flagged whatever the others are.
        unit: Of the number.
    """

    column: str
    words: str
    bad: Literal["low", "high", "both"]
    least: float
    relative: bool = False
    limit: float | None = None
    unit: str = ""

    def text(self, value: float) -> str:
        """Write a number."""
        return f"{100 * value:.3g} %" if self.unit == "%" else f"{value:.3g} {self.unit}".rstrip()


RULES = (
    Rule("tsnr", "median temporal signal-to-noise ratio", "low", 0.05, relative=True),
    Rule("dvars", "mean standardised DVARS", "high", 0.03),
    Rule("dvars_share", f"share of frames with DVARS above {FAR_DVARS:g}", "high", 0.02, limit=0.1, unit="%"),
    Rule(
        "displaced_share", f"share of frames displaced by more than {FAR_DISPLACEMENT:g} mm", "high", 0.03, limit=0.2,
        unit="%",
    ),
    Rule("volume", "volume of the mask", "both", 0.03, relative=True, unit="ml"),
    Rule("overlap", "overlap of the mask with the mean mask (Dice)", "low", 0.01, limit=0.8),
)  # fmt: skip


def flags_of(table: "pandas.DataFrame") -> list[tuple[str, ...]]:
    """Say for each run of a table in what it is unlike its peers: the runs of the same task and site.

    A number is an outlier if it lies more than 3.5 robust standard deviations (1.4826 times the median absolute
    deviation) from the median of its peers, on the bad side; where these are fewer than five runs, from the median of
    all runs; and among fewer than five runs in all none is. Numbers beyond a fixed limit are flagged in any case, and
    so are a TR and a grid that most of the peers do not have, and a number of frames that differs from the median of
    the peers by more than 20 %.
    """
    found: list[list[str]] = [[] for _ in range(len(table))]
    groups = [np.sort(rows) for rows in table.groupby(["task", "site"], sort=False).indices.values()]
    for rows in groups:
        about = _about(table, rows)
        for rule in RULES:
            _compare(rule, table[rule.column].to_numpy(np.float64), rows, about, found)
        _unlike_most(table, rows, about, found)
    return [tuple(reasons) for reasons in found]


def _about(table: "pandas.DataFrame", rows: NDArray[np.intp]) -> str:
    first = table.iloc[rows[0]]
    named = [f"{label} {first[label]}" for label in ("task", "site") if first[label] and table[label].nunique() > 1]
    return " of " + ", ".join(named) if named else ""


def _compare(
    rule: Rule, values: NDArray[np.float64], rows: NDArray[np.intp], about: str, found: Sequence[list[str]]
) -> None:
    peers = values[rows]
    peers = peers[~np.isnan(peers)]
    if peers.size < FEWEST_PEERS:
        peers, about = values[~np.isnan(values)], ""
    enough = peers.size >= FEWEST_PEERS
    centre = float(np.median(peers)) if peers.size else np.nan
    spread = MAD_TO_STD * float(np.median(np.abs(peers - centre))) if peers.size else np.nan
    spread = max(spread, rule.least * (abs(centre) if rule.relative else 1))
    for row in rows:
        value = float(values[row])
        distance = (value - centre) / spread if enough and spread > 0 else 0.0
        low, high = rule.bad != "high" and distance < -MOST_Z, rule.bad != "low" and distance > MOST_Z
        if low or high:
            found[row].append(
                f"{rule.words}: {rule.text(value)}, {'below' if low else 'above'} the {peers.size:,} runs{about} "
                f"(median {rule.text(centre)}, z {distance:+.1f})"
            )
        elif rule.limit is not None and (value < rule.limit if rule.bad == "low" else value > rule.limit):
            found[row].append(
                f"{rule.words}: {rule.text(value)}, {'below' if rule.bad == 'low' else 'above'} {rule.text(rule.limit)}"
            )


def _unlike_most(table: "pandas.DataFrame", rows: NDArray[np.intp], about: str, found: Sequence[list[str]]) -> None:
    group = table.iloc[rows]
    trs = group["tr"].round(3)
    usual_tr, alike = trs.mode()[0], trs == trs.mode()[0]
    if 2 * alike.sum() > len(rows):
        for row, tr in zip(rows[~alike], trs[~alike], strict=True):
            found[row].append(f"TR: {tr:g} s, but {alike.sum():,} of {len(rows):,} runs{about} have {usual_tr:g} s")
    frames = group["num_frames"].to_numpy()
    usual = float(np.median(frames))
    if len(rows) > 2:
        for row, number in zip(rows, frames, strict=True):
            if abs(number - usual) > MOST_LENGTH_CHANGE * usual:
                found[row].append(
                    f"frames: {number:,}, but {usual:,.0f} is the median of the {len(rows):,} runs{about}"
                )
    grids = group["grid"].value_counts()
    if 2 * grids.iloc[0] > len(rows):
        for row, grid in zip(rows, group["grid"], strict=True):
            if grid != grids.index[0]:
                found[row].append(
                    f"grid: {grid}, but {grids.iloc[0]:,} of {len(rows):,} runs{about} have {grids.index[0]}"
                )
