import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data import voxels_that_vary, zscore_voxels

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
    bold[:, 0, 0, 0] = torch.nan
    mask = torch.ones(SHAPE[1:], dtype=torch.bool)
    mask[0, 0, 0] = mask[2, 1, 3] = False
    masked = zscore_voxels(bold, mask)
    assert (masked[:, ~mask] == 0).all()
    torch.testing.assert_close(masked[:, mask], zscore_voxels(bold)[:, mask], rtol=0, atol=0)


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
    normal = zscore_voxels(run, MetaTensor(torch.ones(SHAPE[1:], dtype=torch.bool)))
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


@pytest.mark.parametrize("function", [zscore_voxels, voxels_that_vary])
def test_clip_instead_of_run(bold, function):
    with pytest.raises(ValueError, match=r"bold has shape \(1, 7, 3, 4, 5\), but a run has four axes \(T, H, W, D\)"):
        function(bold[None])


def test_mask_of_another_shape(bold):
    with pytest.raises(ValueError, match=r"mask has shape \(3, 4, 1\), but a frame of the run has \(3, 4, 5\)"):
        zscore_voxels(bold, torch.ones(3, 4, 1, dtype=torch.bool))


def test_mask_that_is_not_boolean(bold):
    with pytest.raises(ValueError, match=r"mask has dtype torch\.uint8, but it has to be boolean: pass mask > 0"):
        zscore_voxels(bold, torch.ones(3, 4, 5, dtype=torch.uint8))
