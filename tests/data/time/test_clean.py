import nilearn.signal
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data import haxby_runs, load_bold, voxels_that_vary
from nstorm.data.time.clean import clean

TR = 2.5
NUM_FRAMES = 121


@pytest.fixture(scope="module")
def bold():
    return load_bold(haxby_runs()[0].bold)


@pytest.fixture(scope="module")
def inside(bold):
    return voxels_that_vary(bold)


@pytest.fixture(scope="module")
def confounds():
    return torch.randn(NUM_FRAMES, 5, generator=torch.Generator().manual_seed(0)).cumsum(0)


def by_nilearn(bold, inside, **options):
    series = bold.numpy()[:, inside.numpy()].astype(np.float64)
    return nilearn.signal.clean(series, standardize=None, t_r=TR, **options)


@pytest.mark.parametrize("last", [False, True], ids=["time first", "time last"])
@pytest.mark.parametrize("with_confounds", [False, True], ids=["", "confounds"])
@pytest.mark.parametrize(
    "options",
    [{}, {"low_pass": 0.1}, {"high_pass": 0.01}, {"low_pass": 0.1, "high_pass": 0.01}],
    ids=lambda options: " ".join(options) or "detrend",
)
def test_agrees_with_nilearn(bold, inside, confounds, options, with_confounds, last):
    extra = {"confounds": confounds} if with_confounds else {}
    given = bold.movedim(0, -1)[None] if last else bold
    cleaned = clean(given, keep_mean=False, **options, **extra)
    assert cleaned.shape == given.shape
    first = cleaned[0].movedim(-1, 0) if last else cleaned
    extra = {"confounds": confounds.numpy()} if with_confounds else {}
    np.testing.assert_allclose(first[:, inside], by_nilearn(bold, inside, **options, **extra), atol=1e-3)
    assert (first[:, ~inside] == 0).all()


def test_mean_is_kept(bold, inside, confounds):
    cleaned = clean(bold, confounds=confounds, high_pass=0.01)
    without = clean(bold, confounds=confounds, high_pass=0.01, keep_mean=False)
    difference = (cleaned - without)[:, inside].as_tensor()
    torch.testing.assert_close(difference, bold.mean(0)[inside].as_tensor().expand_as(difference), rtol=1e-5, atol=0)


@pytest.mark.parametrize("order", [0, 1, 2, 4])
def test_polynomials_up_to_the_order_are_removed(order):
    times = torch.linspace(-1, 1, 60, dtype=torch.float64)
    noise = torch.randn(60, dtype=torch.float64)
    cleaned = [
        clean((noise + drift).view(60, 1, 1, 1), detrend=order, keep_mean=False).flatten()
        for drift in (torch.zeros(60), 5 * times**order + 3, 5 * times ** (order + 1))
    ]
    torch.testing.assert_close(cleaned[1], cleaned[0])
    assert (cleaned[2] - cleaned[0]).abs().max() > 0.1


def test_frames_that_are_not_kept_have_no_influence(bold, inside, confounds):
    keep = torch.ones(NUM_FRAMES, dtype=torch.bool)
    # pairs that mirror each other, and both ends
    keep[[0, 30, 31, 57, 63, 90, 118, 119, 120]] = False
    spoilt = bold.clone()
    spoilt[~keep] = 1e5
    options = {"confounds": confounds, "low_pass": 0.1, "keep": keep, "mask": inside}
    cleaned = clean(spoilt, **options)
    torch.testing.assert_close(cleaned.as_tensor(), clean(bold, **options).as_tensor(), rtol=0, atol=1e-3)
    assert len(cleaned) == NUM_FRAMES - 9
    assert cleaned.meta["frame_times"].tolist() == (TR * keep.nonzero()[:, 0]).tolist()


def test_kept_frames_agree_with_nilearn(bold, inside, confounds):
    keep = np.ones(NUM_FRAMES, bool)
    keep[[20, 30, 31]] = False
    series = bold.numpy()[:, inside.numpy()].astype(np.float64)
    # nilearn, without a filter, takes the trend of the frames in a row, as if none were missing
    expected = nilearn.signal.clean(
        series, standardize=None, t_r=TR, low_pass=0.1, detrend=False, sample_mask=keep, confounds=confounds.numpy()
    )
    cleaned = clean(bold, keep=torch.from_numpy(keep), low_pass=0.1, confounds=confounds, detrend=0)[:, inside]
    torch.testing.assert_close(
        (cleaned - cleaned.mean(0)).as_tensor(),
        torch.from_numpy(expected - expected.mean(0)).float(),
        rtol=0,
        atol=0.05,
    )


def test_dropping_the_first_frames_keeps_the_run_regular(bold):
    cleaned = clean(bold, keep=torch.arange(NUM_FRAMES) >= 4)
    assert (cleaned.meta["tr"], cleaned.meta["start_time"], len(cleaned)) == (TR, 10.0, NUM_FRAMES - 4)


def test_confounds_leave_no_trace(bold, inside, confounds):
    mixed = bold + 30 * confounds[:, 0].view(-1, 1, 1, 1) * inside
    torch.testing.assert_close(
        clean(mixed, confounds=confounds, mask=inside, keep_mean=False).as_tensor(),
        clean(bold, confounds=confounds, mask=inside, keep_mean=False).as_tensor(),
        rtol=0,
        atol=1e-2,
    )


def test_standardized(bold, inside):
    cleaned = clean(bold, high_pass=0.01, standardize=True)[:, inside]
    torch.testing.assert_close(cleaned.std(0, correction=0).as_tensor(), torch.ones(530))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"low_pass": 0.1}, {"keep_mean": False}], ids=str)
def test_rounding_errors_are_not_standardised(confounds, dtype, options):
    """Of voxels that trend and confounds explain nothing is left that could have unit variance."""
    bold = MetaTensor(torch.randn(NUM_FRAMES, 4, 1, 1, dtype=dtype), meta={"tr": TR})
    bold[:, 0, 0, 0] = 1000.1 + 3.3 * torch.arange(NUM_FRAMES).double()
    bold[:, 1, 0, 0] = 777.7 + 5.5 * confounds[:, 0].double()
    bold[:, 2, 0, 0] = 1000.1
    cleaned = clean(bold, confounds=confounds, mask=torch.ones(4, 1, 1) > 0, standardize=True, **options)
    assert (cleaned[:, :3] == 0).all()
    assert cleaned[:, 3].std() > 0.9


def test_constant_voxels_of_the_mask_keep_their_mean(bold):
    cleaned = clean(bold, mask=torch.ones(bold.shape[1:]) > 0)
    outside = ~voxels_that_vary(bold)
    torch.testing.assert_close(cleaned[:, outside].as_tensor(), bold[:, outside].as_tensor())
    constant = clean(torch.full((9, 1, 1, 1), 1000.1), mask=torch.ones(1, 1, 1) > 0)
    assert (constant == 1000.1).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite(bold, inside, value):
    keep = torch.arange(NUM_FRAMES) != 30
    spoilt = bold.clone()
    spoilt[30, 12, 9, 0] = value
    for part in (inside, None):
        with pytest.raises(ValueError, match=r"NaN or infinite values, the first at voxel \(12, 9, 0\): leave such"):
            clean(spoilt, mask=part)
    torch.testing.assert_close(clean(spoilt, mask=inside, keep=keep), clean(bold, mask=inside, keep=keep))


def test_mask_input_and_dtype(bold, inside):
    before = bold.clone()
    mask = inside.clone()
    mask[:20] = False
    cleaned = clean(bold, mask=mask[None])
    assert (cleaned[:, ~mask] == 0).all()
    torch.testing.assert_close(cleaned[:, mask].as_tensor(), clean(bold)[:, mask].as_tensor())
    assert torch.equal(bold, before)
    assert cleaned.dtype == torch.float32
    assert clean(bold.double()).dtype == torch.float64


def test_plain_tensor_needs_no_repetition_time_without_a_filter(bold):
    plain = bold.as_tensor()
    assert type(clean(plain)) is torch.Tensor
    with pytest.raises(ValueError, match="bold has no repetition time"):
        clean(plain, low_pass=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low_pass": 0.2}, r"low_pass is 0\.2 Hz, but frames of 2\.5 s hold frequencies between 0 and 0\.2 Hz"),
        ({"high_pass": 0.0}, "high_pass is 0 Hz"),
        ({"low_pass": -0.1}, r"low_pass is -0\.1 Hz"),
        ({"low_pass": 0.01, "high_pass": 0.1}, r"low_pass \(0\.01 Hz\) has to be above high_pass \(0\.1 Hz\)"),
        ({"confounds": torch.zeros(120, 3)}, r"confounds have shape \(120, 3\), but .*bold.nii.gz has 121 frames"),
        ({"confounds": torch.zeros(121)}, r"confounds have shape \(121,\)"),
        (
            {"confounds": torch.full((121, 2), torch.nan)},
            r"confounds of .*bold\.nii\.gz have NaN or infinite values in the rows",
        ),
        ({"confounds": torch.rand(121, 120)}, "120 confounds and a trend of order 1 leave nothing of 121 frames"),
        ({"detrend": 120}, "0 confounds and a trend of order 120 leave nothing of 121 frames"),
        ({"detrend": -1}, "detrend is -1, but the order of a polynomial is 0"),
        ({"keep": torch.arange(121) < 2}, "0 confounds and a trend of order 1 leave nothing of 2 frames"),
        ({"keep": torch.ones(121)}, "it has to be a boolean tensor with one value for each of the 121 frames"),
        ({"mask": torch.ones(3, 4, 5, dtype=torch.bool)}, r"mask has shape \(3, 4, 5\)"),
    ],
)
def test_bad_arguments(bold, options, message):
    with pytest.raises(ValueError, match=message):
        clean(bold, **options)


def test_clip_is_too_short_to_be_filtered(bold):
    with pytest.raises(ValueError, match=r"bold\.nii\.gz has 20 frames, too few to be filtered: clean the whole run"):
        clean(bold[:20], low_pass=0.1, high_pass=0.01)


def test_uneven_run(bold):
    uneven = MetaTensor(bold.as_tensor(), meta={"frame_times": torch.arange(121.0) ** 1.1})
    with pytest.raises(ValueError, match="not evenly spaced"):
        clean(uneven)
