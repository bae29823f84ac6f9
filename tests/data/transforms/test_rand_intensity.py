import math

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from scipy.ndimage import gaussian_filter

from nstorm.data import load_bold, rest_run
from nstorm.data.transforms.rand_intensity import RandBOLDBiasField, RandBOLDNoise, RandBOLDSmooth

SIZES = (2.0, 3.0, 4.0)
FWHM = math.sqrt(8 * math.log(2))


def clip_of(values):
    return MetaTensor(values, affine=torch.diag(torch.tensor([*SIZES, 1.0]).double()), meta={"tr": 1.0})


def test_noise_is_gaussian_and_fresh_for_every_frame():
    noise = RandBOLDNoise(std_range=(0.5, 0.5)).set_random_state(0)(torch.zeros(1, 21, 20, 19, 6))
    frames = noise[0].flatten(0, 2)
    torch.testing.assert_close(frames.std(dim=0), torch.full((6,), 0.5), rtol=0.03, atol=0)
    assert frames.mean(dim=0).abs().max() < 0.03
    assert (torch.corrcoef(frames.T) - torch.eye(6)).abs().max() < 0.05
    assert ((frames / 0.5) ** 4).mean() == pytest.approx(3, rel=0.05)


def test_noise_draws_its_deviation_from_the_range():
    transform = RandBOLDNoise(std_range=(0.2, 0.6)).set_random_state(0)
    zeros = torch.zeros(1, 11, 10, 9, 4)
    deviations = torch.stack([transform(zeros).std() for _ in range(30)])
    assert deviations.min() > 0.18
    assert deviations.max() < 0.62
    assert deviations.max() - deviations.min() > 0.2


def test_smoothing_equals_scipy():
    values = torch.rand(1, 19, 14, 13, 3, dtype=torch.float64)
    smooth = RandBOLDSmooth(fwhm_range=(7.0, 7.0))(clip_of(values)).as_tensor()
    sigmas = [7.0 / FWHM / size for size in SIZES]
    for frame in range(3):
        # scipy counts what lies outside as 0; the kernel's share inside undoes that
        share = gaussian_filter(np.ones((19, 14, 13)), sigmas, mode="constant")
        expected = gaussian_filter(values[0, ..., frame].numpy(), sigmas, mode="constant") / share
        # scipy rounds the reach of the kernel to the nearest voxel, we round up
        np.testing.assert_allclose(smooth[0, ..., frame].numpy(), expected, atol=1e-4)


def test_smoothing_of_a_point_has_the_width_asked_for():
    point = torch.zeros(1, 31, 23, 19, 2)
    point[0, 15, 11, 9] = 1
    smooth = RandBOLDSmooth(fwhm_range=(9.0, 9.0))(clip_of(point)).as_tensor()[0, ..., 0].double()
    assert smooth.sum() == pytest.approx(1, abs=1e-4)
    for axis, size in enumerate(SIZES):
        profile = smooth.sum(dim=[other for other in range(3) if other != axis])
        place = (torch.arange(len(profile)) - point.shape[1 + axis] // 2) * size
        assert (profile * place**2).sum().sqrt() * FWHM == pytest.approx(9, rel=0.01)


def test_smoothing_keeps_constants_and_does_not_mix_the_background_in():
    assert RandBOLDSmooth(fwhm_range=(8.0, 8.0))(clip_of(torch.full((1, 9, 8, 7, 3), 5.0))).sub(5).abs().max() < 1e-5
    mask = torch.zeros(9, 8, 7, dtype=torch.bool)
    mask[2:7, 2:6, 2:5] = True
    brain = torch.where(mask[None, ..., None], 5.0, -1000.0).expand(1, 9, 8, 7, 3)
    smooth = RandBOLDSmooth(fwhm_range=(8.0, 8.0))(clip_of(brain), mask=mask)
    torch.testing.assert_close(smooth.as_tensor(), brain)


def test_smoothing_by_nothing():
    values = torch.rand(1, 5, 1, 4, 3)
    assert torch.equal(RandBOLDSmooth(fwhm_range=(0.0, 0.0))(clip_of(values)).as_tensor(), values)


def test_smoothing_lowers_the_noise_of_a_real_recording():
    bold = load_bold(rest_run().bold)[:5]
    mean = bold.as_tensor().mean(dim=0)
    smooth = RandBOLDSmooth(fwhm_range=(8.0, 8.0))(bold).as_tensor()
    before = (bold.as_tensor() - mean).std()
    assert (smooth - smooth.mean(dim=0)).std() < 0.7 * before


def test_bias_field_is_a_low_polynomial_and_constant_in_time():
    values = torch.rand(1, 13, 12, 11, 5, dtype=torch.float64) + 1
    field = (RandBOLDBiasField(degree=2, coeff_range=(-0.5, 0.5)).set_random_state(0)(values) / values)[0]
    torch.testing.assert_close(field, field[..., :1].expand(field.shape))
    field = field[..., 0].log().numpy()
    assert np.ptp(field) > 0.5
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in field.shape), indexing="ij")
    powers = [(i, j, k) for i in range(3) for j in range(3 - i) for k in range(3 - i - j)]
    terms = np.stack([(x**i * y**j * z**k).ravel() for i, j, k in powers], axis=1)
    fitted, *_ = np.linalg.lstsq(terms, field.ravel(), rcond=None)
    np.testing.assert_allclose(terms @ fitted, field.ravel(), atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandBOLDNoise(std_range=(-0.1, 0.1)), r"std_range is \(-0\.1, 0\.1\).*of 0 or more in order"),
        (lambda: RandBOLDSmooth(fwhm_range=(6.0, 2.0)), r"fwhm_range is \(6\.0, 2\.0\)"),
        (lambda: RandBOLDBiasField(degree=0), "degree is 0"),
        (lambda: RandBOLDBiasField(coeff_range=(0.0, float("inf"))), "coeff_range is"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
