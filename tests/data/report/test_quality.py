import numpy as np
import pytest
from scipy import ndimage
from scipy.signal import lfilter

from nstorm.data import haxby_runs, load_bold, voxels_that_vary
from nstorm.data.report.quality import CARPET_STEP, NUMBERS, SERIES, quality_of


def _recording() -> tuple[np.ndarray, np.ndarray]:
    bold = load_bold(haxby_runs()[0].bold)
    mask = voxels_that_vary(bold).numpy()
    return bold.numpy()[:, mask], mask


def _ball(radius: int = 9) -> np.ndarray:
    grid = np.indices((2 * radius + 3,) * 3) - radius - 1
    return np.square(grid).sum(0) <= radius**2


def _named(quality: dict[str, np.ndarray]) -> dict[str, float]:
    return dict(zip(NUMBERS, map(float, quality["numbers"]), strict=True))


def test_series_are_those_of_the_formulas() -> None:
    values, mask = _recording()
    exact = values.astype(np.float64)
    quality = quality_of(values, mask)
    around = exact - exact.mean(0)
    autocorrelation = (around[1:] * around[:-1]).sum(0) / np.square(around).sum(0)
    low, high = np.percentile(exact, [25, 75], axis=0)
    usual = ((high - low) / 1.349 * np.sqrt(2 * (1 - autocorrelation))).mean()
    dvars = np.sqrt(np.square(np.diff(exact, axis=0)).mean(1)) / usual
    np.testing.assert_allclose(quality["series"][0], exact.mean(1), rtol=1e-5)
    assert np.isnan(quality["series"][1, 0])
    np.testing.assert_allclose(quality["series"][1, 1:], dvars, rtol=1e-4)
    assert np.isnan(quality["series"][2]).all()
    numbers = _named(quality)
    assert numbers["tsnr"] == pytest.approx(np.median(exact.mean(0) / exact.std(0)), rel=1e-3)
    assert numbers["dvars"] == pytest.approx(dvars.mean(), rel=1e-4)
    assert numbers["dvars_share"] == pytest.approx((dvars > 1.5).mean())


@pytest.mark.parametrize("autocorrelation", [0.0, 0.5, 0.9])
def test_dvars_of_stationary_noise_is_one_in_any_unit(autocorrelation: float) -> None:
    mask = _ball(6)
    white = np.random.default_rng(0).standard_normal((400, mask.sum()))
    noise = lfilter([1], [1, -autocorrelation], white, axis=0)[100:].astype(np.float32)
    quality = quality_of(noise + 100, mask)
    assert np.nanmean(quality["series"][1]) == pytest.approx(1, abs=0.03)
    scaled = quality_of(1000 * (noise + 100), mask)
    np.testing.assert_allclose(scaled["series"][1], quality["series"][1], rtol=1e-3)


def test_carpet_goes_from_the_surface_to_the_centre() -> None:
    mask = _ball()
    depth = ndimage.distance_transform_cdt(mask, metric="taxicab")[mask]
    values = np.random.default_rng(0).normal(100, 1, (60, mask.sum())).astype(np.float32)
    values[30, depth == 1] += 3
    values[45, depth >= depth.max() - 1] += 3
    carpet = quality_of(values, mask)["carpet"] * CARPET_STEP
    at_surface = round(160 * (depth == 1).mean())
    assert (carpet[: at_surface - 1, 30] > 1).all()
    assert (np.abs(carpet[at_surface + 1 :, 30]) < 1).all()
    assert carpet[-1, 45] > 1
    assert (np.abs(carpet[:at_surface, 45]) < 1).all()


def test_carpet_is_the_mean_of_z_scores() -> None:
    # every voxel lies at the surface: rows are neighbours in C order
    values, mask = np.random.default_rng(0).normal(5, 2, (30, 480)).astype(np.float32), np.zeros((32, 32, 3), bool)
    mask[::2, 1:-1, 1] = True
    assert mask.sum() == 480
    z = (values - values.mean(0)) / values.std(0)
    expected = z.reshape(30, 160, 3).mean(2).T
    carpet = quality_of(values, mask)["carpet"]
    assert carpet.dtype == np.int8
    np.testing.assert_allclose(carpet * CARPET_STEP, expected, atol=CARPET_STEP / 2 + 1e-5)


def test_displacement_is_kept_and_its_first_frame_may_be_unknown() -> None:
    values, mask = _recording()
    displacement = np.full(len(values), 0.1)
    displacement[0], displacement[5:9] = np.nan, 0.7
    quality = quality_of(values, mask, framewise_displacement=displacement)
    np.testing.assert_allclose(quality["series"][SERIES.index("framewise_displacement")], displacement, rtol=1e-6)
    numbers = _named(quality)
    assert numbers["displaced_share"] == pytest.approx(4 / 120)
    assert numbers["framewise_displacement"] == pytest.approx((0.1 * 116 + 0.7 * 4) / 120)


@pytest.mark.parametrize(("num_frames", "shape"), [(1, (2, 3, 1)), (2, (1, 1, 1)), (7, (5, 4, 3))])
def test_small_and_constant_runs_have_all_arrays(num_frames: int, shape: tuple[int, int, int]) -> None:
    mask = np.ones(shape, bool)
    values = np.full((num_frames, mask.size), 7.3, np.float32)
    before = values.copy()
    quality = quality_of(values, mask)
    assert quality["series"].shape == (len(SERIES), num_frames)
    assert quality["carpet"].shape == (mask.size, num_frames)
    assert not quality["carpet"].any()
    assert (quality["series"][1, 1:] == 0).all()
    assert np.isnan(_named(quality)["tsnr"])
    assert (values == before).all()
