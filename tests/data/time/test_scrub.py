import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from scipy.interpolate import CubicSpline

from nstorm.data.time.resample_time import resample_time
from nstorm.data.time.scrub import dvars, framewise_displacement, scrub

SHAPE = (11, 3, 4, 2)
KEEP = torch.tensor([True, True, True, False, False, True, True, True, False, True, True])


@pytest.fixture
def bold():
    values = 1000 + 50 * torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return MetaTensor(values, meta={"tr": 2.0, "start_frame": 0, "start_time": 0.0})


def test_framewise_displacement_of_known_motion():
    motion = torch.zeros(4, 6)
    motion[1:, 0] = 0.5
    motion[2:, 1] = -0.25
    motion[3, 3:] = torch.tensor([0.01, -0.02, 0.0])
    assert framewise_displacement(motion).tolist() == pytest.approx([0, 0.5, 0.25, 1.5])
    assert framewise_displacement(motion, radius=80.0)[3].item() == pytest.approx(2.4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_motion_as_numpy_reads_it(dtype):
    motion = np.zeros((3, 6), dtype)
    motion[1:, 5] = 1
    assert framewise_displacement(motion, radius=57.5).tolist() == [0, 57.5, 0]


@pytest.mark.parametrize("motion", [torch.zeros(4, 5), torch.zeros(6), torch.full((4, 6), torch.nan)])
def test_motion_that_is_none(motion):
    with pytest.raises(ValueError, match=r"it has to be \(T, 6\)"):
        framewise_displacement(motion)


def test_dvars_agrees_with_numpy(bold):
    mask = torch.rand(SHAPE[1:]) > 0.4
    steps = np.diff(bold.numpy()[:, mask.numpy()], axis=0)
    expected = np.sqrt((steps**2).mean(axis=1))
    assert dvars(bold, mask).tolist() == pytest.approx([0, *expected])
    assert torch.equal(dvars(bold.movedim(0, -1)[None], mask), dvars(bold, mask))


def test_dvars_of_large_means_in_single_precision():
    small = torch.randn(50, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    large = (small * 2**6).round() / 2**6 + 2**14
    torch.testing.assert_close(dvars(large), dvars(large - 2**14))


@pytest.mark.parametrize("last", [False, True], ids=["time first", "time last"])
def test_interpolation_is_a_cubic_spline_through_the_kept_frames(bold, last):
    frames, kept = np.arange(11), KEEP.numpy()
    expected = bold.numpy().copy()
    expected[~kept] = CubicSpline(frames[kept], expected[kept])(frames[~kept])
    bold[~KEEP] = 1e6
    given = bold.movedim(0, -1)[None] if last else bold
    scrubbed = scrub(given, KEEP)
    assert scrubbed.shape == given.shape
    assert scrubbed.meta["tr"] == 2.0
    np.testing.assert_allclose(scrubbed[0].movedim(-1, 0) if last else scrubbed, expected, rtol=1e-12)
    assert (bold[~KEEP] == 1e6).all()


def test_frames_beyond_the_kept_ones_become_equal_to_the_nearest(bold):
    keep = torch.ones(11, dtype=torch.bool)
    keep[[0, 1, 10]] = False
    scrubbed = scrub(bold, keep)
    torch.testing.assert_close(scrubbed[:2].as_tensor(), bold[2:3].expand(2, -1, -1, -1).as_tensor())
    torch.testing.assert_close(scrubbed[10].as_tensor(), bold[9].as_tensor())
    assert torch.equal(scrubbed[2:10].as_tensor(), bold[2:10].as_tensor())


def test_dropped_frames_leave_times_and_no_repetition_time(bold):
    dropped = scrub(bold, KEEP, mode="drop")
    assert torch.equal(dropped.as_tensor(), bold.as_tensor()[KEEP])
    assert dropped.meta["frame_times"].tolist() == [0, 2, 4, 10, 12, 14, 18, 20]
    with pytest.raises(ValueError, match="not evenly spaced"):
        resample_time(dropped, 1.0)
    with pytest.raises(ValueError, match="not evenly spaced"):
        scrub(dropped, torch.arange(8) != 3)


def test_nothing_to_scrub(bold):
    keep = torch.ones(11, dtype=torch.bool)
    for mode in ("interpolate", "drop"):
        scrubbed = scrub(bold, keep, mode=mode)
        assert torch.equal(scrubbed.as_tensor(), bold.as_tensor())
        assert scrubbed.meta["tr"] == 2.0
        assert scrubbed.data_ptr() != bold.data_ptr()


def test_one_frame_is_too_few_to_interpolate(bold):
    with pytest.raises(ValueError, match="keep leaves 1 of 11 frames, too few to interpolate"):
        scrub(bold, torch.arange(11) == 4)
