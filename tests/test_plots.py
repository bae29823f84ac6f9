import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from mpl_toolkits.mplot3d.art3d import Line3DCollection

from nstorm.plots import plot_order
from nstorm.scan.orders import ScanOrder, scan_order


def lines(axes, *, jumps: bool):
    """Collections of the path's steps: jumps are those that are dashed, the rest carries places as its array."""
    kind = Line3DCollection if axes.name == "3d" else LineCollection
    found = [c for c in axes.collections if type(c) is kind]
    if jumps:
        return [c for c in found if c.get_linestyle()[0][1] is not None]
    return [c for c in found if c.get_array() is not None]


def steps(axes, *, jumps: bool) -> list:
    """Begin and end of each drawn step, in the axes' own coordinates."""
    found = []
    for collection in lines(axes, jumps=jumps):
        segments = collection._segments3d if axes.name == "3d" else collection.get_segments()
        found += np.asarray(segments).round().astype(int).tolist()
    return found


def points(collection) -> list:
    offsets = np.stack(collection._offsets3d, 1) if hasattr(collection, "_offsets3d") else collection.get_offsets()
    return np.asarray(offsets).round().astype(int).tolist()


def marked(axes, marker_size: float) -> list:
    return [c for c in axes.collections if isinstance(c, PathCollection) and c.get_sizes()[0] == marker_size]


def marks(collection):
    """Of each triangle: place in the order, where it is, whether it points to the right, whether its edge is red."""
    right = MarkerStyle(">")
    vertices = right.get_path().transformed(right.get_transform()).vertices
    points_right = np.allclose(collection.get_paths()[0].vertices, vertices)
    # get_edgecolors() would sort them by depth
    red = (collection._edgecolors != 1).any(axis=1)
    for place, cell, jump in zip(collection.get_array(), points(collection), red, strict=True):
        yield place, cell, points_right, jump


def expected_steps(order: ScanOrder, points: np.ndarray, *, jumps: bool) -> list:
    chosen = order.jumps() > 1 if jumps else order.jumps() == 1
    return np.stack([points[:-1], points[1:]], 1)[chosen].tolist()


@pytest.mark.parametrize("name", ["raster", "snake_reversed", "hilbert", "spatial_first"])
@pytest.mark.parametrize("grid", [(7,), (5, 8), (3, 4, 2)])
def test_every_step_is_drawn_once_and_coloured_by_its_place(name, grid):
    order = scan_order(name, grid)
    axes, colour_bar = plot_order(order).axes
    at = order.coordinates if len(grid) == 3 else np.insert(order.coordinates, 0, 0, axis=1)[:, [-1, -2]]
    assert steps(axes, jumps=False) == expected_steps(order, at, jumps=False)
    assert steps(axes, jumps=True) == expected_steps(order, at, jumps=True)
    (near,) = lines(axes, jumps=False)
    assert near.get_array().tolist() == np.flatnonzero(order.jumps() == 1).tolist()
    assert (near.norm.vmin, near.norm.vmax) == (0, len(at) - 1)
    start, end = marked(axes, 80)
    assert points(start) == [at[0].tolist()]
    assert points(end) == [at[-1].tolist()]
    assert colour_bar.get_ylabel() == "place in the order"


def test_a_matrix_stands_as_it_is_printed():
    axes = plot_order(scan_order("raster", (3, 5))).axes[0]
    assert axes.yaxis_inverted()
    assert not axes.xaxis_inverted()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("axis 1", "axis 0")


@pytest.mark.parametrize("name", ["temporal_first", "spatial_first", "snake", "hilbert", "hilbert_reversed"])
def test_frames_of_a_4d_grid_hold_the_whole_path(name):
    order = scan_order(name, (2, 3, 2, 7))
    panels = plot_order(order).axes[:7]
    assert [panel.get_title() for panel in panels] == [f"t = {t}" for t in range(7)]
    at, frames, jumps = order.coordinates[:, :3], order.coordinates[:, 3], order.jumps()
    step = np.stack([at[:-1], at[1:]], 1)
    for t, panel in enumerate(panels):
        within = (frames[:-1] == t) & (frames[1:] == t)
        assert steps(panel, jumps=False) == step[within & (jumps == 1)].tolist()
        assert steps(panel, jumps=True) == step[within & (jumps > 1)].tolist()
        cells = next(c for c in panel.collections if isinstance(c, PathCollection))
        assert points(cells) == at[frames == t].tolist()
        assert cells.get_array().tolist() == np.flatnonzero(frames == t).tolist()
        triangles = {place: rest for c in marked(panel, 46) for place, *rest in marks(c)}
        leaving = np.flatnonzero((frames[:-1] == t) & (frames[1:] != t))
        assert triangles == {i: [at[i].tolist(), frames[i + 1] > t, jumps[i] > 1] for i in leaving}
        ends = [points(c) for c in marked(panel, 80)]
        assert ends == [[at[i].tolist()] for i in (0, -1) if frames[i] == t]


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_legend_names_what_is_there():
    assert legend(plot_order(scan_order("snake", (3, 3)))) == ["start", "end"]
    assert legend(plot_order(scan_order("raster", (3, 3)))) == ["start", "end", "jump"]
    frames = ["start", "end", "to a later frame", "to an earlier frame"]
    assert legend(plot_order(scan_order("hilbert", (2, 2, 2, 2)))) == frames
    assert legend(plot_order(scan_order("raster", (2, 2, 2, 2)))) == [*frames, "jump to another frame"]
    assert legend(plot_order(scan_order("spatial_first", (2, 2, 2, 2)))) == [*frames, "jump to another frame", "jump"]


def test_draws_into_given_axes_and_adds_nothing_else():
    figure = Figure()
    flat = figure.add_subplot(121)
    deep = figure.add_subfigure(figure.add_gridspec(1, 2)[1]).add_subplot(projection="3d")
    assert plot_order(scan_order("snake", (2, 3)), ax=flat) is figure
    assert plot_order(scan_order("snake", (2, 3, 2)), ax=deep) is figure
    assert figure.axes == [flat, deep]
    assert not figure.legends
    assert len(steps(flat, jumps=False)) == 5
    assert len(steps(deep, jumps=False)) == 11


@pytest.mark.parametrize("grid", [(1,), (1, 1), (1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 6), (1, 9), (2, 1, 40)])
def test_thin_grids_are_rendered(grid):
    plot_order(scan_order("hilbert", grid)).canvas.draw()


def test_leaves_pyplot_alone():
    code = (
        "import sys, nstorm.plots; assert 'matplotlib' not in sys.modules; "
        "from nstorm.scan.orders import hilbert_order; "
        "nstorm.plots.plot_order(hilbert_order((2, 2, 2, 2))); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("grid", "projection", "message"),
    [
        ((2, 2, 2, 2, 2), None, r"grid \(2, 2, 2, 2, 2\) has 5 axes, a path can be drawn through 1 to 4"),
        ((2, 2, 2, 2), "3d", r"ax is one panel, the 4D grid \(2, 2, 2, 2\) needs one a frame"),
        ((2, 2), "3d", r"ax has the projection '3d', which does not fit the 2 axes of grid \(2, 2\)"),
        ((2, 2, 2), "rectilinear", r"ax has the projection 'rectilinear', which does not fit the 3 axes"),
    ],
)
def test_bad_input(grid, projection, message):
    ax = projection and Figure().add_subplot(projection=projection)
    with pytest.raises(ValueError, match=message):
        plot_order(scan_order("raster", grid), ax=ax)
