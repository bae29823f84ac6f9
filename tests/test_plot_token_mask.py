import numpy as np
import pytest
import torch

from nstorm.layers import RandomMask
from nstorm.plots import plot_token_mask

GRID = (5, 7, 4, 9)


@pytest.fixture
def brain():
    brain = torch.rand(GRID[:3]) < 0.4
    # a slice and a row of it with the most of it
    brain[..., 2] |= torch.rand(GRID[:2]) < 0.7
    brain[:, 0, 2] = False
    brain[3, :, 2] = True
    return brain


@pytest.fixture
def hidden(brain):
    return RandomMask(0.5)((1, *GRID), brain)[0]


def drawn(axes):
    """The picture of the mask, which lies on top, as a NumPy array of states; NaN where it draws nothing."""
    return np.ma.filled(axes.images[-1].get_array().astype(float), np.nan)


def test_slices_and_row_show_the_mask(hidden, brain):
    figure = plot_token_mask(hidden, brain_tokens=brain)
    *panels, row = figure.axes
    states = torch.where(brain[..., None], hidden.int(), -1).numpy()
    assert [panel.get_title() for panel in panels] == [f"t = {t}" for t in (0, 2, 4, 6, 8)]
    for t, panel in zip((0, 2, 4, 6, 8), panels, strict=True):
        assert np.array_equal(drawn(panel), states[:, :, 2, t].T)
        assert panel.patches[0].get_bbox().bounds == (2.5, -0.5, 1, 7)
    assert np.array_equal(drawn(row), states[3, :, 2])
    assert list(row.lines[0].get_xdata()) == [0, 2, 4, 6, 8]
    share = f"{hidden.sum():,} of {9 * brain.sum():,} tokens of the brain hidden (50.0 %)"
    assert figure.get_suptitle() == share
    figure.canvas.draw()


def test_the_image_lies_below_in_the_same_place(hidden):
    # the last patches along h and d are cut off
    volume = torch.randn(18, 28, 10, 3)
    figure = plot_token_mask(hidden, volume, frames=(8, 0, 3), slice_index=1, row_index=4, patch_size=(4, 4, 3, 1))
    *panels, row = figure.axes
    for t, panel in zip((8, 0, 3), panels, strict=True):
        below, _ = panel.images
        np.testing.assert_allclose(below.get_array(), volume[:, :, 4].mean(-1).T, atol=1e-5)
        assert tuple(below.get_extent()) == (-0.5, 4.0, -0.5, 6.5)
        shown = drawn(panel)
        assert np.array_equal(shown == 1, hidden[:, :, 1, t].numpy().T)
        assert np.isnan(shown[shown != 1]).all()
    assert np.array_equal(drawn(row) == 1, hidden[4, :, 1].numpy())


def test_a_background_of_one_volume_and_arrays_do_too(hidden, brain):
    volume = np.random.default_rng(0).normal(size=(10, 14, 8)).astype(np.float32)
    figure = plot_token_mask(hidden.numpy(), volume, brain.numpy())
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), volume[:, :, 5].T, rtol=1e-5)


def test_many_frames_and_thin_grids_are_rendered():
    hidden = RandomMask(0.5)((1, 1, 2, 1, 7))[0]
    figure = plot_token_mask(hidden, frames=range(7))
    assert len(figure.axes) == 8
    figure.canvas.draw()
    figure = plot_token_mask(hidden[..., :1])
    assert len(figure.axes) == 2
    figure.canvas.draw()


def test_what_does_not_fit_is_refused(hidden, brain):
    with pytest.raises(ValueError, match=r"hidden has shape \(1, 5, 7, 4, 9\), expected the mask of one sample"):
        plot_token_mask(hidden[None])
    with pytest.raises(ValueError, match=r"brain_tokens has shape \(7, 5, 4\), expected \(5, 7, 4\)"):
        plot_token_mask(hidden, brain_tokens=brain.transpose(0, 1))
    with pytest.raises(ValueError, match=r"background has shape \(18, 28, 10\), which patches of \(4, 4, 4\) do not"):
        plot_token_mask(hidden, torch.zeros(18, 28, 10), patch_size=(4, 4, 4, 1))
