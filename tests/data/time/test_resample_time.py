import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from scipy.interpolate import CubicSpline

from nstorm.data import haxby_runs, load_bold
from nstorm.data.time.resample_time import remove_dummy_scans, resample_time

PAIRS = [(2.0, 0.8), (0.8, 2.0), (0.72, 0.8), (1.5, 1.6), (3.0, 0.72)]


def run(series, tr, dtype=torch.float64, **meta):
    """One voxel for each column."""
    values = torch.as_tensor(np.asarray(series), dtype=dtype)
    return MetaTensor(values.reshape(len(values), -1, 1, 1), meta={"tr": tr, **meta})


def sine(hz, num_frames, tr):
    return np.sin(2 * np.pi * hz * tr * np.arange(num_frames) + 0.3)


@pytest.mark.parametrize(("old", "new"), PAIRS)
@pytest.mark.parametrize("part_of_nyquist", [0.05, 0.3, 0.6, 0.75])
def test_frequencies_that_both_can_hold_keep_amplitude_and_phase(old, new, part_of_nyquist):
    hz = part_of_nyquist * 0.5 / max(old, new)
    bold = resample_time(run(sine(hz, 400, old), old), new)
    inner = slice(int(50 / new), -int(50 / new))
    np.testing.assert_allclose(bold.flatten()[inner], sine(hz, len(bold), new)[inner], atol=2e-3)


@pytest.mark.parametrize("part_of_nyquist", [1.0, 1.2, 1.7, 2.3])
def test_frequencies_beyond_the_new_nyquist_frequency_are_removed(part_of_nyquist):
    bold = resample_time(run(sine(part_of_nyquist * 0.25, 500, 0.8), 0.8), 2.0)
    assert bold[20:-20].std() * 2**0.5 < 10 ** (-50 / 20)


def test_nothing_below_the_old_nyquist_frequency_is_mirrored_above_it():
    bold = resample_time(run(sine(0.2, 300, 2.0), 2.0), 0.5)
    spectrum = np.abs(np.fft.rfft(bold.flatten().numpy() * np.hanning(len(bold))))
    above = np.fft.rfftfreq(len(bold), 0.5) > 0.26
    assert spectrum[above].max() < 1e-3 * spectrum.max()


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_constants_are_exact_and_lines_stay_lines(old, new):
    constants = run(np.tile(np.float32([1234.567, -3.3e-5, 0.0]), (50, 1)), old, torch.float32)
    resampled = resample_time(constants, new)
    assert torch.equal(resampled.as_tensor(), constants[:1].expand_as(resampled).as_tensor())
    line = resample_time(run(100 + 3 * old * np.arange(50), old), new).flatten()
    np.testing.assert_allclose(line, 100 + 3 * new * np.arange(len(line)), rtol=1e-9)


@pytest.mark.parametrize(
    ("num_frames", "old", "new", "num_new"),
    [(10, 2.0, 0.8, 25), (121, 2.5, 2.0, 151), (1200, 0.72, 0.8, 1080), (300, 0.1, 0.3, 100), (7, 2.0, 3.0, 4)],
)
def test_number_of_frames(num_frames, old, new, num_new):
    assert len(resample_time(run(np.zeros(num_frames), old), new)) == num_new


@settings(max_examples=25, deadline=None)
@given(num_frames=st.integers(2, 60), old=st.floats(0.3, 4), new=st.floats(0.3, 4), seed=st.integers(0, 100))
def test_any_run_keeps_its_duration_and_range(num_frames, old, new, seed):
    series = 1000 + np.random.RandomState(seed).randn(num_frames)
    if num_frames * old < new:
        return
    bold = resample_time(run(series, old), new)
    assert bold.isfinite().all()
    assert len(bold) * new <= num_frames * old + 2e-3
    assert (len(bold) + 1) * new > num_frames * old
    assert (bold - 1000).abs().max() < 12 * np.abs(series - 1000).max()


def test_agrees_with_a_spline_on_smooth_series():
    times = np.arange(200) * 1.5
    series = np.random.RandomState(0).randn(200, 3)
    smooth = np.apply_along_axis(lambda s: np.convolve(s, np.hanning(15), mode="same"), 0, series)
    bold = resample_time(run(smooth, 1.5), 0.9)[:, :, 0, 0].numpy()
    expected = CubicSpline(times, smooth)(np.arange(len(bold)) * 0.9)
    np.testing.assert_allclose(bold[20:-20], expected[20:-20], atol=0.01 * smooth.std())


def test_layouts_give_the_same_and_the_input_stays():
    bold = load_bold(haxby_runs()[0].bold)
    before = bold.clone()
    first = resample_time(bold, 2.0)
    last = resample_time(bold.movedim(0, -1)[None], 2.0)
    torch.testing.assert_close(last.as_tensor()[0].movedim(-1, 0), first.as_tensor())
    assert torch.equal(bold, before)
    assert bold.meta["tr"] == 2.5
    assert first.dtype == torch.float32


def test_meta():
    bold = run(np.zeros(20), 2.0, start_frame=5, start_time=10.0, subject="01")
    resampled = resample_time(bold, 0.8)
    assert (resampled.meta["tr"], resampled.meta["start_time"], resampled.meta["subject"]) == (0.8, 10.0, "01")
    assert "start_frame" not in resampled.meta
    assert resample_time(run(np.zeros(20), 2.0, start_frame=5), 0.8).meta["start_time"] == 10.0


@pytest.mark.parametrize("tr", [0.8, 0.8000001, 0.7999999])
def test_frames_stay_where_the_repetition_time_is_the_same_but_for_rounding(tr):
    bold = run(np.random.RandomState(0).randint(0, 1000, 300), 0.8, torch.int16, start_frame=5)
    same = resample_time(bold, tr)
    assert torch.equal(same.as_tensor(), bold.as_tensor().float())
    assert same.dtype == torch.float32
    assert (same.meta["tr"], same.meta["start_frame"], bold.meta["tr"]) == (tr, 5, 0.8)


def test_long_runs_of_short_frames():
    series = np.sin(np.arange(4000) / 50)
    resampled = resample_time(run(series, 0.11), 0.1).flatten()
    np.testing.assert_allclose(resampled, np.sin(np.arange(4400) / 55), atol=1e-4)


@pytest.mark.parametrize("tr", [0.0, -1.0, 0.0008, 800.0, float("nan"), float("inf")])
def test_implausible_repetition_time(tr):
    with pytest.raises(ValueError, match=rf"tr is {tr} s, but it has to lie between 0\.1 and 20 s"):
        resample_time(run(np.zeros(20), 2.0), tr)


@pytest.mark.parametrize(("num_frames", "tr"), [(1, 0.8), (3, 6.5)])
def test_too_few_frames(num_frames, tr):
    with pytest.raises(ValueError, match=f"bold has {num_frames} frames of 2 s, too few to be resampled to {tr} s"):
        resample_time(run(np.zeros(num_frames), 2.0), tr)


def test_dummy_scans_keep_event_times_right():
    bold = run(np.arange(20), 2.0)
    steady = remove_dummy_scans(bold, 4)
    assert steady.flatten()[0] == 4.0
    assert (steady.meta["start_time"], steady.meta["start_frame"], steady.meta["tr"]) == (8.0, 4, 2.0)
    again = remove_dummy_scans(steady, seconds=3.0)
    assert (len(again), again.meta["start_time"], again.meta["start_frame"]) == (14, 12.0, 6)
    assert len(remove_dummy_scans(bold, 0)) == 20
    steady.zero_()
    assert bold.flatten()[5] == 5.0


@pytest.mark.parametrize("arguments", [{}, {"num_frames": 3, "seconds": 6.0}])
def test_dummy_scans_by_number_or_by_time(arguments):
    with pytest.raises(ValueError, match="give one of the two"):
        remove_dummy_scans(run(np.zeros(20), 2.0), **arguments)


@pytest.mark.parametrize("seconds", [-0.5, float("nan"), float("inf")])
def test_dummy_scans_of_no_length(seconds):
    with pytest.raises(ValueError, match=f"seconds is {seconds}, but it has to be the length of a time"):
        remove_dummy_scans(run(np.zeros(20), 2.0), seconds=seconds)


@pytest.mark.parametrize("num_frames", [-1, 20])
def test_dummy_scans_that_leave_nothing(num_frames):
    with pytest.raises(ValueError, match=f"{num_frames} frames cannot be removed from a run of 20"):
        remove_dummy_scans(run(np.zeros(20), 2.0), num_frames)
