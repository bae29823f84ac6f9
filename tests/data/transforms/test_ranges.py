import numpy as np
import pytest

from nstorm.data.transforms.ranges import checked_axes, checked_range, checked_spacing


@pytest.mark.parametrize(
    "axis_range",
    [(0.1, (0.0, 0.2), -0.3), [0.1, [0.0, 0.2], 0.3], np.array([[-0.1, 0.1], [0.0, 0.2], [-0.3, 0.3]])],
    ids=["tuples", "lists of a configuration file", "numpy"],
)
def test_each_axis_has_its_own_range(axis_range):
    assert checked_axes("rotate_range", axis_range).tolist() == [[-0.1, 0.1], [0.0, 0.2], [-0.3, 0.3]]


def test_one_range_for_all_axes():
    assert checked_axes("rotate_range", 0.1).tolist() == [[-0.1, 0.1]] * 3
    assert checked_axes("shear_range", None, 6).tolist() == [[0.0, 0.0]] * 6
    assert checked_axes("rotate_range", np.full(3, 0.1)).tolist() == [[-0.1, 0.1]] * 3


@pytest.mark.parametrize("low_high", [0.1, (0.1,), (0.0, 0.1, 0.2)])
def test_what_is_no_range(low_high):
    with pytest.raises(ValueError, match=r"std_range is .*, but it has to be \(low, high\), two numbers"):
        checked_range("std_range", low_high)


@pytest.mark.parametrize("spacing", [0.0, -5.0, float("nan"), float("inf")])
def test_what_is_no_spacing(spacing):
    with pytest.raises(ValueError, match=f"spacing is {spacing} mm, but it has to be a finite distance above 0"):
        checked_spacing(spacing)
