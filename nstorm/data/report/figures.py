"""Pictures of a run over time, and of the numbers of a study; pyplot is not involved."""

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nstorm.data.report.quality import CARPET_STEP, FAR_DISPLACEMENT, FAR_DVARS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, RED, GREY = "#1f6f8b", "#e08e45", "#b5542e", "#777777"
WIDTH = 6.4
# sharp on screens that show a picture half as wide as it is
_DPI = 150
_CARPET_REACH = 1.0


def carpet_figure(
    series: NDArray[np.float32], carpet: NDArray[np.int8], tr: float, start_time: float = 0.0
) -> "Figure":
    """Draw what happens in a run over time: displacement where it is known, DVARS, global signal, and the carpet.

    Args:
        series: What :func:`nstorm.data.report.quality.quality_of` gives.
        carpet: Likewise.
        tr: The repetition time in seconds.
        start_time: Of the first frame, in seconds.
    """
    from matplotlib.figure import Figure

    signal, change, displacement = series
    lines = [("DVARS", change, ORANGE, FAR_DVARS), ("global\nsignal", signal, GREY, None)]
    if not np.isnan(displacement).all():
        lines.insert(0, ("FD, mm", displacement, RED, FAR_DISPLACEMENT))
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    *above, below = figure.subplots(
        len(lines) + 1, sharex=True, height_ratios=[*(1.0 for _ in lines), 6.6 - len(lines)]
    )
    times = start_time + tr * np.arange(len(signal))
    for axes, (name, values, colour, limit) in zip(above, lines, strict=True):
        axes.plot(times, values, color=colour, linewidth=1)
        if limit is not None:
            axes.axhline(limit, color="black", linewidth=0.7, linestyle=":")
            axes.set_ylim(0, max(1.15 * limit, 1.05 * np.nanmax(values, initial=0)))
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.locator_params(axis="y", nbins=3)
        axes.tick_params(axis="x", length=0)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    image = below.imshow(
        carpet * np.float32(CARPET_STEP),
        cmap="gray",
        vmin=-_CARPET_REACH,
        vmax=_CARPET_REACH,
        aspect="auto",
        interpolation="nearest",
        extent=(times[0] - tr / 2, times[-1] + tr / 2, 0, 1),
    )
    below.set_yticks([0.02, 0.98], ["centre", "surface"])
    below.tick_params(axis="y", length=0)
    below.set_xlabel("time, s")
    figure.colorbar(image, ax=below, label="z", pad=0.01, aspect=30, ticks=[-_CARPET_REACH, 0, _CARPET_REACH])
    return figure


def histogram_figure(name: str, values: NDArray[np.float64], flagged: NDArray[np.bool_]) -> "Figure":
    """Draw how many runs have which number, with a mark below for each flagged run.

    Args:
        name: Of the number.
        values: The number of each run, or NaN.
        flagged: Which runs are flagged.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2, 1.9), layout="constrained")
    axes = figure.subplots()
    is_known = ~np.isnan(values)
    axes.hist(values[is_known], bins=int(np.clip(is_known.sum() ** 0.5, 8, 40)), color=BLUE)
    # matplotlib cannot lay out a figure with a line of no points outside the axes
    if (marks := values[is_known & flagged]).size:
        below: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        axes.plot(marks, np.full(len(marks), -0.06), "|", color=RED, markersize=8, **below)
    axes.set_xlabel(name, labelpad=6)
    axes.set_ylabel("runs")
    axes.locator_params(axis="x", nbins=5)
    axes.locator_params(axis="y", nbins=3, integer=True)
    axes.tick_params(axis="x", pad=7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def as_webp(figure: "Figure") -> bytes:
    """Encode a picture."""
    buffer = BytesIO()
    figure.savefig(buffer, format="webp", dpi=_DPI, pil_kwargs={"quality": 80})
    return buffer.getvalue()
