import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nstorm.scan import WindowLayout


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
