"""Figures of scan orders."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from nstorm.scan.orders import ScanOrder

_RED, _PALE = "#c9485b", "#dcdcdc"
_START = {"marker": "o", "facecolor": "white", "edgecolor": "black", "s": 80, "linewidth": 1.6}
_END = {"marker": "s", "facecolor": "black", "edgecolor": "white", "s": 80, "linewidth": 1.0}
_FRAMES_IN_A_ROW = 5


def plot_order(order: ScanOrder, ax: Axes | None = None) -> Figure:
    """Draw the path of a scan order through its grid; colour tells the place in the order.

    Solid lines are steps to a neighbour, dashed red ones jumps; a ring marks the start, a black square the end. A 2D
    grid is drawn as a matrix (axis 0 downwards), a 3D grid in perspective, a 4D grid as a 3D panel for each frame of
    its last axis. There a triangle marks a cell from which the path goes on in a later (right) or earlier (left)
    frame, with a red edge where it jumps: to another place, or over a frame.

    Args:
        order: over a grid of 1 to 4 axes.
        ax: axes to draw into, 3D ones for a 3D grid; colour bar and legend are left to you then. By default, and
            always for a 4D grid, a new figure, of which pyplot knows nothing.

    Returns:
        The figure. A notebook shows it; `savefig` writes it to a file.

    Raises:
        ValueError: if the grid has more than 4 axes, or `ax` does not fit it.

    Example:
        >>> from nstorm.scan.orders import hilbert_order
        >>> [panel.get_title() for panel in plot_order(hilbert_order((4, 4, 4, 2))).axes[:2]]
        ['t = 0', 't = 1']
    """
    rank = len(order.grid)
    if rank > 4:
        raise ValueError(f"grid {order.grid} has {rank} axes, a path can be drawn through 1 to 4")
    if ax is None:
        return _figure(order)
    if rank == 4:
        raise ValueError(f"ax is one panel, the 4D grid {order.grid} needs one a frame: leave ax out")
    if (ax.name == "3d") != (rank == 3):
        raise ValueError(f"ax has the projection {ax.name!r}, which does not fit the {rank} axes of grid {order.grid}")
    _draw_panel(ax, order)
    figure: Figure = ax.figure.figure
    return figure


def _figure(order: ScanOrder) -> Figure:
    """A panel for the grid, or for each frame of a 4D grid, with colour bar and legend."""
    from matplotlib.figure import Figure

    rank = len(order.grid)
    frames = order.grid[3] if rank == 4 else 1
    columns = min(frames, _FRAMES_IN_A_ROW)
    rows = -(-frames // columns)
    figure = Figure(figsize=_size(order.grid, rows, columns), layout="constrained")
    projection = {"projection": "3d" if rank > 2 else None}
    panels = figure.subplots(rows, columns, subplot_kw=projection, squeeze=False).ravel()
    for frame, panel in enumerate(panels[:frames]):
        _draw_panel(panel, order, frame)
        if rank == 4:
            panel.set_title(f"t = {frame}")
    for panel in panels[frames:]:
        panel.remove()
    _explain(figure, list(panels[:frames]), order)
    return figure


def _size(grid: tuple[int, ...], rows: int, columns: int) -> tuple[float, float]:
    """Width and height in inches."""
    if len(grid) == 4:
        # no narrower than the legend
        return max(2.6 * columns + 0.8, 6.8), 2.6 * rows + 0.4
    if len(grid) == 3:
        return 5.8, 5.4
    height, width = np.divide((1, *grid)[-2:], max(grid))
    return max(4.2 * width, 2.0) + 1.4, max(4.2 * height, 0.8) + 1.0


def _draw_panel(axes: Any, order: ScanOrder, frame: int = 0) -> None:
    """The path through a whole grid, or as much of it as lies in one frame of a 4D grid."""
    rank, cells, jumps = len(order.grid), order.coordinates, order.jumps()
    frames = cells[:, 3] if rank == 4 else np.zeros(len(cells), np.int64)
    if rank > 2:
        _draw_box(axes, order.grid[:3], named=frame == 0)
        points, flat = cells[:, :3], {"depthshade": False}
    else:
        _draw_matrix(axes, order.grid)
        # x along the last axis, y along the one before it
        points, flat = np.insert(cells, 0, 0, axis=1)[:, :-3:-1], {}

    shown = frames == frame
    drawn = shown[:-1] & shown[1:]
    near, far = drawn & (jumps == 1), drawn & (jumps > 1)
    segments, places, colours = np.stack([points[:-1], points[1:]], axis=1), np.arange(len(points)), _colours(order)
    width = float(np.clip(24 / max(order.grid[:3]), 0.8, 2.6))
    _draw_lines(axes, segments[far], color=_RED, linewidth=0.9, linestyle="dashed", zorder=1)
    _draw_lines(axes, segments[near], array=places[:-1][near], linewidth=width, capstyle="round", zorder=2, **colours)
    axes.scatter(*points[shown].T, c=places[shown], s=(1.2 * width) ** 2, zorder=3, **colours, **flat)
    for marker, leaving in ((">", np.diff(frames) > 0), ("<", np.diff(frames) < 0)):
        last = np.flatnonzero(leaving & shown[:-1])
        edges = np.where(jumps[last] > 1, _RED, "white")
        if len(last):
            axes.scatter(*points[last].T, c=last, s=46, marker=marker, edgecolor=edges, zorder=4, **colours, **flat)
    for end, style in ((0, _START), (-1, _END)):
        if shown[end]:
            axes.scatter(*points[[end]].T, zorder=5, **style, **flat)


def _draw_lines(axes: Any, segments: Float[ndarray, "lines 2 axes"], **style: Any) -> None:
    from matplotlib.collections import LineCollection
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    if len(segments) == 0:
        # which 3D axes would not take
        return
    if axes.name == "3d":
        axes.add_collection3d(Line3DCollection(segments, **style))
    else:
        axes.add_collection(LineCollection(list(segments), **style))


def _draw_matrix(axes: Any, grid: tuple[int, ...]) -> None:
    """The cells of a 2D grid, rows downwards, or of a 1D grid as one row."""
    rows, columns = (1, *grid)[-2:]
    axes.hlines(np.arange(rows + 1) - 0.5, -0.5, columns - 0.5, color=_PALE, linewidth=0.8, zorder=0)
    axes.vlines(np.arange(columns + 1) - 0.5, -0.5, rows - 0.5, color=_PALE, linewidth=0.8, zorder=0)
    axes.set(xlim=(-0.6, columns - 0.4), ylim=(rows - 0.4, -0.6), aspect="equal", xlabel=f"axis {len(grid) - 1}")
    axes.xaxis.set_major_locator(_whole_numbers(12))
    axes.yaxis.set_major_locator(_whole_numbers(12))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(grid) == 2:
        axes.set_ylabel("axis 0")
    else:
        axes.set_yticks([])


def _draw_box(axes: Any, grid: tuple[int, ...], named: bool) -> None:
    """The edges of a 3D grid; three of them named."""
    ends = np.subtract(grid, 1)
    corners = np.array(list(product((0, 1), repeat=3)))
    edges = [(a * ends, b * ends) for a in corners for b in corners if (b - a).min() == 0 and (b - a).sum() == 1]
    # what covers what is told by zorder, not by how far away the middle of a collection is
    axes.computed_zorder = False
    _draw_lines(axes, np.array(edges), color=_PALE, linewidth=0.8, zorder=0)
    axes.set_axis_off()
    axes.view_init(elev=22, azim=-62)
    x, y, z = shape = np.maximum(ends, 0.5)
    # as seen from there
    extent = max(0.88 * x + 0.47 * y, 0.18 * x + 0.33 * y + 0.93 * z)
    axes.set_box_aspect(shape, zoom=0.9 * np.linalg.norm(shape) / extent)
    if named:
        x, y, z = ends
        for axis, place, side, height in (
            (0, (x / 2, 0, 0), "right", "top"),
            (1, (x, y / 2, 0), "left", "top"),
            (2, (x, y, z / 2), "left", "center"),
        ):
            if ends[axis]:
                axes.text(*place, f" axis {axis} ", ha=side, va=height, color="#888888", fontsize="small")


def _colours(order: ScanOrder) -> dict[str, Any]:
    from matplotlib.colors import Normalize

    return {"cmap": "viridis", "norm": Normalize(0, max(len(order.permutation) - 1, 1))}


def _whole_numbers(most: int) -> MaxNLocator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=most, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)


def _explain(figure: Figure, panels: list[Axes], order: ScanOrder) -> None:
    """Colour bar and legend for what the panels show."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.lines import Line2D

    def mark(marker: str, label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, label=label, markersize=8, **style)

    handles = [mark("o", "start", markerfacecolor="white", markeredgecolor="black"), mark("s", "end", color="black")]
    jumps, between = order.jumps() > 1, np.zeros(len(order.permutation) - 1, bool)
    if len(order.grid) == 4:
        between = np.diff(order.coordinates[:, 3]) != 0
        handles += [mark(">", "to a later frame", color="#888888"), mark("<", "to an earlier frame", color="#888888")]
    if (jumps & between).any():
        handles.append(mark("<", "jump to another frame", color="#cccccc", markeredgecolor=_RED))
    if (jumps & ~between).any():
        handles.append(Line2D([], [], color=_RED, linewidth=0.9, linestyle="dashed", label="jump"))
    scale = ScalarMappable(**_colours(order))
    figure.colorbar(scale, ax=panels, label="place in the order", shrink=0.8, ticks=_whole_numbers(8))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
