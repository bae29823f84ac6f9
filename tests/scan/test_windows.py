import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from nstorm.scan import WindowLayout, scan_order
from nstorm.scan.windows import GridMask


@st.composite
def layouts(draw):
    rank = draw(st.integers(1, 4))
    axis = st.integers(1, 6)
    grid, window = (tuple(draw(axis) for _ in range(rank)) for _ in range(2))
    shift = tuple(draw(st.integers(0, w)) for w in window)
    return WindowLayout(grid, window, shift)


@given(layouts())
def test_reverse_undoes_partition(layout):
    x = torch.randn(2, *layout.grid, 3)
    windows = layout.partition(x)
    assert windows.shape == (2 * layout.num_windows, layout.num_tokens, 3)
    assert torch.equal(layout.reverse(windows), x)


@given(layouts())
def test_partition_is_pad_roll_and_cut(layout):
    """Spelled out with PyTorch's own pad, roll and unfold."""
    x = torch.randn(2, *layout.grid, 3)
    expected = torch.zeros(2, *layout.padded, 3)
    expected[(slice(None), *(slice(size) for size in layout.grid))] = x
    axes = list(range(1, len(layout.grid) + 1))
    expected = expected.roll([-s for s in layout.shift], axes)
    for axis, window in zip(axes, layout.window, strict=True):
        expected = expected.unfold(axis, window, window)
    # (b, *counts, c, *window) -> (b * windows, tokens, c)
    expected = expected.movedim(len(layout.grid) + 1, -1).reshape(-1, layout.num_tokens, 3)
    assert torch.equal(layout.partition(x), expected)


def test_gradient_returns_to_its_token():
    layout = WindowLayout((5, 4, 3, 7), (4, 4, 1, 2), (2, 0, 0, 1))
    x = torch.randn(2, 5, 4, 3, 7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 5, 4, 3, 7, 3, dtype=torch.float64)
    (layout.reverse(layout.partition(x) * 2) * weight).sum().backward()
    assert torch.equal(x.grad, 2 * weight)
    small = WindowLayout((3, 1, 2, 3), (2, 1, 1, 2), (1, 0, 0, 1))
    x = torch.randn(1, 3, 1, 2, 3, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(small.partition, x)
    assert torch.autograd.gradgradcheck(small.partition, x)


def test_published_rules():
    layout = WindowLayout((16, 2, 4, 5), (4, 4, 4, 4), (2, 2, 2, 2))
    assert layout.window == (4, 2, 4, 4)
    assert layout.shift == (2, 0, 0, 2)
    assert layout.padded == (16, 2, 4, 8)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (((4, 4), (2, 2, 2), (0, 0)), "must have one entry per axis each"),
        (((4, 4), (0, 2), (0, 0)), r"window_size \(0, 2\) must be 1 or more"),
        (((4, 4), (2, 2), (0, -1)), r"shift_size \(0, -1\) 0 or more"),
        (((4, 4), (2, 2), (0, 1), "zigzag"), "'zigzag'"),
        (((4, 4), (2, 2), (0, 1), "raster", "mirror"), "boundary 'mirror' is unknown"),
    ],
)
def test_bad_layout(args, message):
    with pytest.raises(ValueError, match=message):
        WindowLayout(*args)


def test_lists_are_as_good_as_tuples_and_functional_gradients_work():
    layout = WindowLayout([4, 6], [2, 3], [1, 1])
    assert layout == WindowLayout((4, 6), (2, 3), (1, 1))
    x = torch.randn(1, 4, 6, 2)
    grad = torch.func.grad(lambda x: layout.partition(x).square().sum())(x)
    assert torch.equal(grad, 2 * x)


def test_partition_on_another_grid():
    with pytest.raises(ValueError, match=r"x is on the grid \(4, 5\), this layout is for \(4, 4\)"):
        WindowLayout((4, 4), (2, 2), (0, 0)).partition(torch.zeros(1, 4, 5, 3))


def _ends(layout):
    """Which end of each axis every cell comes from, seen from a shifted window: computed from coordinates alone."""
    cells = np.indices(layout.grid).reshape(len(layout.grid), -1)
    return (cells < np.array(layout.shift)[:, None]).T


@given(layouts(), st.sampled_from(["raster", "snake", "hilbert"]))
def test_reset_groups_regions_and_leaves_padding_out(layout, order):
    layout = dataclasses.replace(layout, order=order, boundary="reset")
    windows = layout.windows()
    assert windows is layout.windows()
    index = windows.places.index.reshape(-1, windows.num_tokens)
    present = index >= 0
    assert np.array_equal(np.sort(index[present]), np.arange(math.prod(layout.grid)))
    assert (windows.token_mask is None) == present.all()
    if windows.token_mask is not None:
        assert np.array_equal(windows.token_mask, present)
    resets = np.zeros_like(present) if windows.reset is None else windows.reset
    ends, places = _ends(layout), scan_order(order, layout.window).inverse
    corner = np.array(layout.shift)
    for tokens, begins in zip(index, resets, strict=True):
        tokens, begins = tokens[tokens >= 0], begins[tokens >= 0]
        assert (np.flatnonzero(begins) > 0).all()
        group = begins.cumsum()
        for number in np.unique(group):
            members = tokens[group == number]
            # one region, all of it, and in the order asked for
            assert (ends[members] == ends[members[0]]).all()
            assert (ends[tokens] == ends[members[0]]).all(axis=1).sum() == len(members)
            cells = np.stack(np.unravel_index(members, layout.grid), axis=1)
            inside = (cells - corner) % np.array(layout.padded) % np.array(layout.window)
            assert (np.diff(places[np.ravel_multi_index(tuple(inside.T), layout.window)]) > 0).all()


@given(layouts(), st.integers(1, 2), st.data())
def test_windows_of_masked_tokens(layout, grids, data):
    cells = np.array(data.draw(st.lists(st.booleans(), min_size=grids, max_size=grids)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    cells = (rng.random((grids, *layout.grid)) < 0.4) | cells.reshape(-1, *[1] * len(layout.grid))
    assume(cells.any())
    mask = GridMask.of(cells)
    assert np.array_equal(mask.cells, cells)
    windows = layout.windows(mask)
    index = windows.places.index.reshape(-1, windows.num_tokens)
    # every token once, no window of air alone
    assert np.array_equal(np.sort(index[index >= 0]), np.arange(cells.sum()))
    assert (index >= 0).any(axis=1).all()
    x = torch.randn(1, mask.num_tokens, 3)
    assert torch.equal(windows.join(windows.cut(x)), x)


def test_wrap_meets_the_other_end_and_attn_mask_keeps_it_apart():
    wrap = WindowLayout((8,), (4,), (2,))
    assert wrap.windows().places.index.tolist() == [2, 3, 4, 5, 6, 7, 0, 1]
    assert wrap.windows().reset is None
    reset = WindowLayout((8,), (4,), (2,), boundary="reset")
    assert reset.windows().reset.tolist() == [[False] * 4, [False, False, True, False]]
    assert wrap.windows(sequential=False).attn_mask is None
    expected = np.kron(np.eye(2), np.ones((2, 2))).astype(bool)
    assert np.array_equal(reset.windows(sequential=False).attn_mask[1], expected)


def test_mask_of_another_grid():
    with pytest.raises(ValueError, match=r"mask is for the grid \(3, 4\), this layout for \(4, 4\)"):
        WindowLayout((4, 4), (2, 2), (0, 0)).windows(GridMask.of(np.ones((1, 3, 4), bool)))
