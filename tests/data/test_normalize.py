import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from scipy.stats import median_abs_deviation

from nstorm.data.normalize import percent_signal_change, voxels_that_vary, zscore_global, zscore_voxels

SHAPE = (7, 3, 4, 5)


@pytest.fixture
def bold():
    return 1000 + 50 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def test_agrees_with_numpy(bold):
    expected = bold.double().numpy()
    expected = (expected - expected.mean(0)) / expected.std(0)
    np.testing.assert_allclose(zscore_voxels(bold).numpy(), expected, atol=1e-4)


def test_constant_voxels_become_exactly_zero(bold):
    # In float32 the sum of seven of these divided by seven is another number.
    bold[:, 1] = torch.tensor([1000.1, 0.1, 21198.3, -7.7])[:, None]
    normal = zscore_voxels(bold)
    assert (normal[:, 1] == 0).all()
    assert (normal[:, [0, 2]] != 0).all()


def test_changes_whose_deviation_rounds_to_zero_become_zero():
    bold = torch.zeros(SHAPE)
    bold[0, 1, 2, 3] = 1e-45
    assert (zscore_voxels(bold) == 0).all()


def test_voxels_outside_the_mask_become_exactly_zero(bold):
    expected = zscore_voxels(bold)
    bold[:, 0, 0, 0] = torch.nan
    mask = torch.ones(SHAPE[1:], dtype=torch.bool)
    mask[0, 0, 0] = mask[2, 1, 3] = False
    masked = zscore_voxels(bold, mask)
    assert (masked[:, ~mask] == 0).all()
    torch.testing.assert_close(masked[:, mask], expected[:, mask], rtol=0, atol=0)


def test_voxels_that_vary(bold):
    bold[:, 1, 2, 3] = 5.0
    expected = torch.ones(SHAPE[1:], dtype=torch.bool)
    expected[1, 2, 3] = False
    assert torch.equal(voxels_that_vary(bold), expected)


def test_input_is_left_as_it_is(bold):
    mask = torch.rand(SHAPE[1:]) > 0.5
    bold_before, mask_before = bold.clone(), mask.clone()
    zscore_voxels(bold, mask)
    voxels_that_vary(bold)
    assert torch.equal(bold, bold_before)
    assert torch.equal(mask, mask_before)


def test_metatensor_keeps_its_meta(bold):
    affine = torch.diag(torch.tensor([-3.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    run = MetaTensor(bold, affine=affine, meta={"tr": 1.5})
    normal = zscore_voxels(run, MetaTensor(torch.ones(SHAPE[1:], dtype=torch.bool), affine=affine))
    assert isinstance(normal, MetaTensor)
    assert normal.meta["tr"] == 1.5
    assert torch.equal(normal.affine, affine)
    normal.meta["tr"] = 99.0
    assert run.meta["tr"] == 1.5
    assert type(zscore_voxels(bold)) is torch.Tensor
    assert type(voxels_that_vary(run)) is torch.Tensor


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        (torch.float16, torch.float32),
        (torch.int16, torch.float32),
        (torch.uint8, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(given, returned):
    bold = torch.randint(0, 256, (200, 2, 2, 2), generator=torch.Generator().manual_seed(0))
    # Sums of these leave float16, whose largest number is 65504.
    bold = (bold if given is torch.uint8 else bold * 100).to(given)
    normal = zscore_voxels(bold)
    assert normal.dtype == returned
    torch.testing.assert_close(normal.double(), zscore_voxels(bold.double()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("function", [zscore_voxels, zscore_global, percent_signal_change])
def test_layouts_give_the_same(bold, function, robust):
    bold[:, 0, 0] = 7.0
    mask = torch.rand(SHAPE[1:]) > 0.3
    for part in (None, mask, mask[None]):
        last = function(bold.movedim(0, -1)[None], part, robust=robust)
        assert last.shape == (1, 3, 4, 5, 7)
        torch.testing.assert_close(last[0].movedim(-1, 0), function(bold, part, robust=robust))


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("function", [zscore_voxels, zscore_global, percent_signal_change])
def test_nothing_constant_empty_or_spoilt_outside_the_mask_becomes_nan(bold, function, robust):
    bold[:, 0] = 0.0
    bold[:, 1, 1] = 12.3
    bold[:, 2, 3, 4] = torch.nan
    mask = torch.ones(SHAPE[1:], dtype=torch.bool)
    mask[2, 3, 4] = False
    before = bold.clone()
    normal = function(bold, mask, robust=robust)
    assert normal.isfinite().all()
    assert (normal[:, ~mask] == 0).all()
    torch.testing.assert_close(bold, before, rtol=0, atol=0, equal_nan=True)


def test_robust_zscore_agrees_with_scipy_and_withstands_a_spike(bold):
    spiked = bold.clone()
    spiked[3] += 1e4
    expected = bold.numpy() - np.median(bold.numpy(), axis=0)
    expected = expected / median_abs_deviation(bold.numpy(), axis=0, scale="normal")
    np.testing.assert_allclose(zscore_voxels(bold, robust=True).numpy(), expected, rtol=1e-3, atol=1e-4)
    others = torch.arange(7) != 3
    assert zscore_voxels(spiked, robust=True)[others].std() > 0.5
    assert zscore_voxels(spiked)[others].std() < 0.1


def test_robust_median_of_an_even_number_of_frames(bold):
    expected = bold[:6].numpy() - np.median(bold[:6].numpy(), axis=0)
    expected = 100 * expected / np.median(bold[:6].numpy(), axis=0)
    np.testing.assert_allclose(percent_signal_change(bold[:6], robust=True).numpy(), expected, atol=1e-4)


def test_voxels_that_rest_on_one_value_are_zero_if_robust(bold):
    bold[:5, 1, 2, 3] = 1000.0
    normal = zscore_voxels(bold, robust=True)
    assert (normal[:, 1, 2, 3] == 0).all()
    assert normal.isfinite().all()


def test_global_zscore_agrees_with_numpy(bold):
    bold[:, 0] = 0.0
    inside = bold[:, 1:].double().numpy()
    normal = zscore_global(bold)
    np.testing.assert_allclose(normal[:, 1:], (inside - inside.mean()) / inside.std(ddof=1), atol=1e-4)
    assert (normal[:, 0] == 0).all()
    assert (zscore_global(bold, outside=-3.0)[:, 0] == -3).all()
    lowest = zscore_global(bold, outside="min")
    assert (lowest[:, 0] == normal[:, 1:].min()).all()


def test_robust_global_zscore_agrees_with_scipy(bold):
    values = bold.numpy().ravel()
    expected = (values - np.median(values)) / median_abs_deviation(values, scale="normal")
    np.testing.assert_allclose(zscore_global(bold, robust=True).numpy().ravel(), expected, rtol=1e-4, atol=1e-4)


def test_global_zscore_keeps_a_voxel_of_the_mask_that_does_not_vary(bold):
    bold[:, 1, 1, 1] = 2000.0
    mask = torch.ones(SHAPE[1:], dtype=torch.bool)
    assert (zscore_global(bold, mask)[:, 1, 1, 1] > 2).all()


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("value", [0.0, 1000.1])
def test_global_zscore_of_a_constant_run(value, robust):
    with pytest.raises(ValueError, match="bold has one value throughout the brain"):
        zscore_global(torch.full(SHAPE, value), robust=robust)


def test_long_runs_of_large_means_keep_their_digits():
    small = torch.randn(2000, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    small = (small * 2**5).round() / 2**5
    for function in (zscore_voxels, zscore_global):
        torch.testing.assert_close(function(small + 2**14), function(small), rtol=0, atol=2e-3)


def test_percent_signal_change():
    times = torch.arange(40.0)
    bold = 500 * (1 + 0.02 * torch.sin(2 * torch.pi * times / 8)).view(40, 1, 1, 1).expand(40, 2, 1, 1).clone()
    bold[:, 1] *= -1
    expected = 2 * torch.sin(2 * torch.pi * times / 8)
    change = percent_signal_change(bold)
    torch.testing.assert_close(change[:, 0, 0, 0], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(change[:, 1, 0, 0], -expected, rtol=0, atol=1e-4)


def test_percent_signal_change_without_a_baseline(bold):
    without = bold - bold.mean(0)
    assert (percent_signal_change(without) == 0).all()
    without[:, 0] += 100
    assert (percent_signal_change(without)[:, 0] != 0).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("function", [zscore_voxels, zscore_global, percent_signal_change])
def test_values_that_are_not_finite(bold, function, robust, value):
    bold[3, 1, 2, 3] = bold[:, 0, 0, 0] = value
    for mask in (None, torch.ones(SHAPE[1:], dtype=torch.bool)):
        # a voxel that is infinite throughout does not vary, and is left out
        number = 1 if mask is None and not np.isnan(value) else 2
        with pytest.raises(ValueError, match=f"NaN or infinite values in {number} voxels: leave these out with a mask"):
            function(bold, mask, robust=robust)


def test_unknown_value_outside(bold):
    with pytest.raises(ValueError, match="outside is 'max', but it has to be 'min' or a number"):
        zscore_global(bold, outside="max")


@pytest.mark.parametrize("function", [zscore_voxels, voxels_that_vary, zscore_global, percent_signal_change])
def test_neither_run_nor_clip(bold, function):
    with pytest.raises(ValueError, match=r"bold has shape \(3, 4, 5\), but a run or a clip is \(T, H, W, D\)"):
        function(bold[0])


def test_mask_on_another_grid(bold):
    run = MetaTensor(bold, affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    mask = MetaTensor(torch.ones(1, *SHAPE[1:], dtype=torch.bool), affine=run.affine.clone())
    assert (zscore_voxels(run, mask) != 0).all()
    mask.affine[0, 3] = 2.0
    with pytest.raises(ValueError, match="mask lies on another grid than the run"):
        zscore_voxels(run, mask)


def test_empty_mask(bold):
    with pytest.raises(ValueError, match="mask holds no voxel: give the mask of this run"):
        zscore_voxels(bold, torch.zeros(SHAPE[1:], dtype=torch.bool))


def test_mask_of_another_shape(bold):
    with pytest.raises(ValueError, match=r"mask has shape \(3, 4, 1\), but a frame of the run has \(3, 4, 5\)"):
        zscore_voxels(bold, torch.ones(3, 4, 1, dtype=torch.bool))


def test_mask_that_is_not_boolean(bold):
    with pytest.raises(ValueError, match=r"mask has dtype torch\.uint8, but it has to be a boolean tensor: pass torch"):
        zscore_voxels(bold, torch.ones(3, 4, 5, dtype=torch.uint8))
