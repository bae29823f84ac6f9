import math

import pytest
import torch

from nstorm.data.space.smoothing import smoothing


@pytest.mark.parametrize("width", [2.0, 3.0, 5.0])
def test_width(width):
    """A point becomes a Gaussian whose variance and the old voxel's make that of the new voxel."""
    smooth = smoothing(41, width)[:, 20]
    torch.testing.assert_close(smooth.sum().item(), 1.0)
    variance = (smooth * (torch.arange(41) - 20) ** 2).sum().item()
    assert variance * 8 * math.log(2) + 1 == pytest.approx(width**2, rel=1e-3)


def test_constants_stay_what_they_are_at_the_border():
    torch.testing.assert_close(smoothing(7, 4.0) @ torch.ones(7, dtype=torch.float64), torch.ones(7).double())


def test_no_weight_is_too_small_for_a_number_of_full_precision():
    weights = smoothing(300, 2.0).float()
    assert ((weights == 0) | (weights > torch.finfo(torch.float32).tiny)).all()


@pytest.mark.parametrize("width", [0.3, 1.0, 1 + 1e-9])
def test_nothing_is_smoothed_before_voxels_that_are_no_larger(width):
    assert smoothing(9, width) is None
