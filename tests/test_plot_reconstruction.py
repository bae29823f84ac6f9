import pytest
import torch

from nstorm.plots import plot_reconstruction
from nstorm.plots.reconstructions import _voxels


def problem():
    clip, hidden = torch.randn(12, 14, 9, 10), torch.rand(12, 14, 9, 10) < 0.5
    brain = torch.ones(12, 14, 9, dtype=torch.bool)
    brain[:4] = False
    brain[:, :, 5] = True
    return clip, 0.5 * clip, hidden, brain


def test_it_shows_what_was_hidden_and_what_was_made_of_it():
    clip, prediction, hidden, brain = problem()
    figure = plot_reconstruction(clip, prediction, hidden, brain, frames=(1, 7))
    panels = [panel for panel in figure.axes if panel.images]
    # the slice with most of the brain; a grey ground below every picture
    bold, seen, made, left = (panel.images[1].get_array() for panel in panels[4:8])
    frame, gone = clip[:, :, 5, 7].T, hidden[:, :, 5, 7].T
    torch.testing.assert_close(torch.from_numpy(bold.filled(torch.nan)), frame)
    assert (seen.mask == gone.numpy()).all()
    expected = torch.where(gone, 0.5 * frame, frame)
    torch.testing.assert_close(torch.from_numpy(made.filled(torch.nan)), expected)
    torch.testing.assert_close(torch.from_numpy(left.filled(torch.nan)), frame - expected)
    series = [panel for panel in figure.axes if panel.lines]
    assert len(series) == 4
    place = tuple(int(i) for i in series[0].get_title().removeprefix("voxel ").split(", "))
    torch.testing.assert_close(torch.from_numpy(series[0].lines[0].get_ydata()), clip[place])
    torch.testing.assert_close(torch.from_numpy(series[0].lines[1].get_ydata()), prediction[place][hidden[place]])


def test_frames_with_something_hidden_are_drawn():
    clip, prediction, hidden, brain = problem()
    hidden[..., :6] = False
    figure = plot_reconstruction(clip, prediction, hidden, brain)
    labels = [panel.get_ylabel() for panel in figure.axes if panel.get_ylabel().startswith("t = ")]
    assert labels == ["t = 6", "t = 8", "t = 9"]


def test_it_takes_what_a_network_gives():
    clip, prediction, hidden, brain = problem()
    expected = plot_reconstruction(clip, prediction.bfloat16().float(), hidden, brain, frames=(1,))
    figure = plot_reconstruction(clip, prediction.bfloat16().requires_grad_(), hidden, brain, frames=(1,))
    pairs = zip(figure.axes, expected.axes, strict=True)
    assert all((a.images[-1].get_array() == b.images[-1].get_array()).all() for a, b in pairs if a.images)


@pytest.mark.parametrize("kind", ["tubes", "nothing"])
def test_masks_of_another_kind(kind):
    clip, prediction, hidden, brain = problem()
    hidden[:] = hidden[..., :1] if kind == "tubes" else False
    figure = plot_reconstruction(clip, prediction, hidden, brain)
    drawn = [panel for panel in figure.axes if panel.lines]
    assert len(drawn) == (4 if kind == "tubes" else 0)
    labels = [panel.get_ylabel() for panel in figure.axes if panel.get_ylabel().startswith("t = ")]
    assert labels == (["t = 1", "t = 5", "t = 8"] if kind == "tubes" else ["t = 0"])
    assert all(hidden[place].all() for place in _voxels(clip, hidden & brain[..., None]))
