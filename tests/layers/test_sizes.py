import re

import pytest

from nstorm.layers.sizes import checked_sizes, checked_sizes_or_axes


@pytest.mark.parametrize("check", [checked_sizes, checked_sizes_or_axes])
@pytest.mark.parametrize("sizes", [4, (), (4, 4, 4), (4, 4, 4, 4, 4), (4, 4, 0, 4), (4, 4, 4, -1)])
def test_sizes_that_cannot_be(check, sizes):
    with pytest.raises(ValueError, match=re.escape(f"patch_size {sizes} must have four ")):
        check("patch_size", sizes)


def test_sizes_are_given_back():
    assert checked_sizes("patch_size", [6, 6, 6, 1]) == (6, 6, 6, 1)
    assert checked_sizes_or_axes("window_size", [4, None, 4, None]) == (4, None, 4, None)
    with pytest.raises(ValueError, match="four entries along h, w, d, t, positive or None for the whole axis"):
        checked_sizes_or_axes("window_size", [4, None])
