import pickle
from itertools import pairwise, product
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nstorm.scan.hilbert import hilbert_path
from nstorm.scan.orders import (
    ScanOrder,
    bidirectional,
    cross_scan,
    hilbert_order,
    list_orders,
    raster_order,
    scan_order,
    snake_order,
)

WINDOWS = [(4, 4, 4, 4), (2, 2, 2, 4), (4, 4, 4, 20)]
names = st.sampled_from(list_orders())


@st.composite
def grids(draw, max_rank=5):
    rank = draw(st.integers(1, max_rank))
    return tuple(draw(st.integers(1, 8 if rank < 4 else 5)) for _ in range(rank))


@st.composite
def grids_and_axes(draw):
    grid = draw(grids())
    return grid, draw(st.permutations(range(len(grid))))


@given(names, grids())
def test_every_cell_is_visited_once_and_the_inverse_says_when(name, grid):
    order = scan_order(name, grid)
    cells = np.arange(prod(grid))
    assert order.grid == grid
    assert np.array_equal(np.sort(order.permutation), cells)
    assert np.array_equal(order.permutation[order.inverse], cells)
    assert np.array_equal(order.inverse[order.permutation], cells)
    assert np.array_equal(np.ravel_multi_index(tuple(order.coordinates.T), grid), order.permutation)


@given(names, grids())
def test_jumps_are_manhattan_distances(name, grid):
    order = scan_order(name, grid)
    cells = list(product(*map(range, grid)))
    path = [cells[i] for i in order.permutation]
    expected = [sum(abs(a - b) for a, b in zip(p, q, strict=True)) for p, q in pairwise(path)]
    assert order.jumps().tolist() == expected


@given(names, grids())
def test_reversed_twice_is_the_same(name, grid):
    order = scan_order(name, grid)
    assert order.reversed().permutation.tolist() == order.permutation.tolist()[::-1]
    assert order.reversed().reversed() == order
    assert bidirectional(order) == (order, order.reversed())


@given(names, grids(), st.integers(-3, 2))
def test_restore_undoes_apply_and_gradients_return_to_their_token(name, grid, dim):
    order = scan_order(name, grid)
    x = torch.randn(3, 2, prod(grid), dtype=torch.float64).movedim(2, dim).requires_grad_()
    y = order.apply(x, dim)
    assert torch.equal(y, x.index_select(dim, torch.tensor(order.permutation)))
    assert torch.equal(order.restore(y, dim), x)
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    assert torch.equal(x.grad, order.restore(weight, dim))


@given(grids_and_axes())
def test_raster_counts_up_along_its_axes(grid_and_axes):
    grid, axes = grid_and_axes
    path = raster_order(grid, axes).coordinates[:, axes]
    assert path.tolist() == sorted(path.tolist())


@given(grids_and_axes())
def test_snake_goes_to_neighbours_line_by_line(grid_and_axes):
    grid, axes = grid_and_axes
    order = snake_order(grid, axes)
    assert order.permutation[0] == 0
    assert (order.jumps() == 1).all()
    lines = order.coordinates.reshape(-1, grid[axes[-1]], len(grid))
    assert (np.ptp(np.delete(lines, axes[-1], axis=2), axis=1) == 0).all()


def test_temporal_first_is_the_published_raster_and_spatial_first_goes_frame_by_frame():
    grid = (3, 2, 4, 5)
    assert scan_order("temporal_first", grid) == scan_order("raster", grid)
    assert scan_order("raster", grid).permutation.tolist() == list(range(120))
    frames = scan_order("spatial_first", grid).coordinates.reshape(5, 24, 4)
    assert (frames[..., 3] == np.arange(5)[:, None]).all()
    assert (frames[..., :3] == raster_order(grid[:3]).coordinates).all()


@pytest.mark.parametrize(("rank", "side"), [(1, 40), (2, 16), (3, 8), (4, 6)])
def test_hilbert_has_no_jump_on_any_box(rank, side):
    for grid in product(range(1, side + 1), repeat=rank):
        order = hilbert_order(grid)
        assert (order.jumps() == 1).all(), grid
        first, last = order.coordinates[[0, -1]]
        assert (first == 0).all(), grid
        assert all(end in (0, size - 1) for end, size in zip(last, grid, strict=True)), grid


@given(st.lists(st.integers(1, 4), min_size=5, max_size=6))
def test_hilbert_has_no_jump_with_more_axes(grid):
    assert (hilbert_order(grid).jumps() == 1).all()


@pytest.mark.parametrize("grid", [(211, 64), (2, 150), (31, 17, 23), (16, 16, 16, 20), (13, 9, 11, 14)])
def test_hilbert_has_no_jump_on_large_boxes(grid):
    assert (hilbert_order(grid).jumps() == 1).all()


@pytest.mark.parametrize("grid", [(32, 32), (16, 16, 16), (8, 8, 8, 8), (8, 1, 8), (4, 4, 4, 4, 4)])
def test_hilbert_visits_every_aligned_cube_in_one_piece(grid):
    path, half = hilbert_path(grid), max(grid) // 2
    while half > 1:
        cubes = path // half
        visits = 1 + np.any(cubes[1:] != cubes[:-1], axis=1).sum()
        assert visits == len(np.unique(cubes, axis=0))
        half //= 2


def distance_within_16(order: ScanOrder) -> float:
    """Mean over all 16 consecutive tokens of the greatest Manhattan distance between two of them."""
    runs = np.lib.stride_tricks.sliding_window_view(order.coordinates, 16, axis=0)
    return np.abs(runs[..., None] - runs[..., None, :]).sum(1).max((1, 2)).mean()


def distances_in_order(order: ScanOrder) -> np.ndarray:
    """How far apart in the order neighbours in the grid stand."""
    places = order.inverse.reshape(order.grid)
    return np.concatenate([np.abs(np.diff(places, axis=axis)).ravel() for axis in range(places.ndim)])


@pytest.mark.parametrize("grid", [*WINDOWS, (5, 3, 4, 7), (8, 8, 8), (6, 7, 5), (16, 16), (13, 10)])
def test_hilbert_keeps_neighbours_closer_than_raster_and_snake(grid):
    hilbert, *others = (scan_order(name, grid) for name in ("hilbert", "raster", "snake"))
    for other in others:
        assert distance_within_16(hilbert) < 0.95 * distance_within_16(other)
        assert np.log(distances_in_order(hilbert)).mean() < np.log(distances_in_order(other)).mean()


def test_documented_measurements():
    rows = [line.split() for line in hilbert_order.__doc__.splitlines() if line.strip().startswith("(")]
    assert len(rows) == 3
    for row in rows:
        grid = tuple(int(word.strip("(),")) for word in row[:4])
        orders = [scan_order(name, grid) for name in ("raster", "snake", "hilbert")]
        measured = [distance_within_16(order) for order in orders]
        measured += [distances_in_order(order).mean() for order in orders]
        measured += [np.exp(np.log(distances_in_order(order)).mean()) for order in orders]
        assert [float(word) for word in row[4:]] == pytest.approx(measured, abs=0.0501)


@given(grids(max_rank=4))
def test_cross_scan_runs_along_every_axis_both_ways(grid):
    orders = cross_scan(grid)
    assert len(set(orders)) == len(orders)
    for axis, size in enumerate(grid):
        along = [order for order in orders if size > 1 and abs(order.coordinates[1, axis] - order.coordinates[0, axis])]
        assert len(along) == (2 if size > 1 else 0)
        for order in along:
            assert order.reversed() in along
            lines = order.coordinates.reshape(-1, size, len(grid))
            assert (np.abs(np.diff(lines[..., axis], axis=1)) == 1).all()
    assert len(orders) == max(2 * sum(size > 1 for size in grid), 1)


def test_orders_are_made_once_and_cannot_be_changed():
    for name in list_orders():
        order = scan_order(name, (3, 4, 2, 5))
        assert scan_order(name, (3, 4, 2, 5)) is order
        for array in (order.permutation, order.inverse):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
    assert scan_order("hilbert", [3, 4]) is scan_order("hilbert", torch.Size((3, 4))) is hilbert_order((3, 4))
    assert snake_order([3, 4], [1, 0]) is snake_order((3, 4), (1, 0))
    assert cross_scan((3, 4)) is cross_scan((3, 4))


def test_list_orders():
    once = ["raster", "temporal_first", "spatial_first", "snake", "hilbert"]
    assert list_orders() == once + [f"{name}_reversed" for name in once]


def test_your_own_order():
    given = np.array([2, 0, 1])
    order = ScanOrder([3], given)
    given[0] = 7
    assert order.permutation.tolist() == [2, 0, 1]
    assert order.inverse.tolist() == [1, 2, 0]
    assert order == ScanOrder((3,), torch.tensor([2, 0, 1])) == pickle.loads(pickle.dumps(order))
    assert hash(order) == hash(ScanOrder((3,), [2, 0, 1]))
    assert order != ScanOrder((3,), [0, 1, 2])
    assert order != ScanOrder((1, 3), [2, 0, 1])
    assert order != (2, 0, 1)


class Recorder(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names = [*getattr(self, "names", []), func.__name__]
        return func(*args, **(kwargs or {}))


def test_backward_gathers():
    order = hilbert_order((3, 4, 2))
    x = torch.randn(2, 24, 3, dtype=torch.float64, requires_grad=True)
    y = order.apply(x)
    with Recorder() as recorder:
        y.backward(torch.ones_like(y))
    assert "index_select.default" in recorder.names
    assert not any("index_add" in name or "index_put" in name or "scatter" in name for name in recorder.names)
    assert torch.autograd.gradgradcheck(order.apply, x.detach()[:1, :, :1].clone().requires_grad_())


def test_compiles_and_exports_with_any_batch():
    order = snake_order((3, 4, 2))

    class Module(torch.nn.Module):
        def forward(self, x):
            return order.restore(order.apply(x).cumsum(1)) + order.apply(x.mT, dim=-1).mT

    module, x = Module(), torch.randn(2, 24, 3, requires_grad=True)
    expected = module(x)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(compiled, expected)
    grads = [torch.autograd.grad(y.square().sum(), x)[0] for y in (compiled, expected)]
    torch.testing.assert_close(*grads)
    exported = torch.export.export(module, (x.detach(),), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    other = torch.randn(5, 24, 3)
    assert torch.equal(exported(other), module(other))


def test_tokens_of_any_kind():
    order = hilbert_order((2, 3))
    assert order.apply(torch.zeros(0, 6, 2)).shape == (0, 6, 2)
    assert order.apply(torch.zeros(4, 6, 2, device="meta")).shape == (4, 6, 2)
    mask = torch.tensor([True, False, False, True, True, False])
    assert torch.equal(order.apply(mask, dim=0), mask[order.permutation.copy()])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scan_order("zigzag", (2, 2)), "scan order 'zigzag' is unknown; choose one of raster, temporal_first"),
        (lambda: scan_order("spatial_first", (2, 0)), r"grid \(2, 0\) must have at least one axis, and a size of 1"),
        (lambda: hilbert_order(()), r"grid \(\) must have at least one axis"),
        (lambda: cross_scan([]), r"grid \(\) must have at least one axis"),
        (lambda: raster_order((2, 3), (0, 0)), r"axes \(0, 0\) must name each axis of grid \(2, 3\), 0 to 1, once"),
        (lambda: snake_order((2, 3), [1]), r"axes \(1,\) must name each axis of grid \(2, 3\)"),
        (lambda: ScanOrder((2, 2), [0, 1, 1, 3]), r"permutation must hold each raster index of grid \(2, 2\), 0 to 3"),
        (lambda: ScanOrder((2, 2), [[0, 1], [2, 3]]), r"it has shape \(2, 2\) and begins with \[0, 1, 2, 3\]"),
        (lambda: ScanOrder((3,), [0, 1]), r"it has shape \(2,\)"),
        (lambda: ScanOrder((2,), [0.5, 1]), r"begins with \[0\.5, 1\.0\]"),
        (
            lambda: raster_order((2, 3)).apply(torch.zeros(1, 5, 2)),
            r"x has 5 tokens along dim -2, this order is for the 6 cells of \(2, 3\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
