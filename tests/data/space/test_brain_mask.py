import nibabel
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from nilearn.masking import compute_epi_mask

from nstorm.data import haxby_runs, load_bold, rest_run, time_last
from nstorm.data.space.brain_mask import apply_mask, brain_mask
from nstorm.data.space.grid import same_grid


@pytest.fixture(scope="module")
def rest():
    return load_bold(rest_run().bold)


def test_finds_the_brain(rest):
    given = torch.from_numpy(nibabel.load(rest_run().mask).get_fdata() > 0)
    mask = brain_mask(rest)
    assert same_grid(mask, rest)
    assert mask.meta["space_code"] == rest.meta["space_code"] == 4
    overlap = 2 * (mask[0].as_tensor() & given).sum() / (mask.sum() + given.sum())
    assert overlap > 0.98


def test_is_nilearns(rest):
    expected = compute_epi_mask(rest_run().bold, opening=1).get_fdata() > 0
    np.testing.assert_array_equal(brain_mask(time_last(rest), opening=1)[0].numpy(), expected)


def test_few_voxels_need_no_opening():
    bold = load_bold(haxby_runs()[0].bold)
    with pytest.raises(ValueError, match=r"no voxel is left in the mask after opening=2: pass a smaller opening"):
        brain_mask(bold)
    assert brain_mask(bold, opening=0).sum() == 530


def run_of(values):
    return MetaTensor(values, affine=torch.eye(4), meta={"tr": 2.0})


@pytest.mark.parametrize("value", [0.0, 7.0, float("nan"), float("inf")])
def test_images_in_which_there_is_nothing_to_find(value):
    with pytest.raises(ValueError, match=r"mean image of the run goes from .*, in which no brain can be found"):
        brain_mask(run_of(torch.full((3, 8, 8, 8), value)))


def test_finds_a_ball_in_noise():
    generator = torch.Generator().manual_seed(0)
    places = torch.cartesian_prod(*(torch.arange(24.0),) * 3).view(24, 24, 24, 3)
    ball = (places - 11.5).norm(dim=-1) < 8
    bold = run_of(10 * torch.rand(5, 24, 24, 24, generator=generator) + 1000 * ball)
    assert (brain_mask(bold)[0].as_tensor() != ball).float().mean() < 0.02


@pytest.mark.parametrize("last", [False, True])
def test_applies_a_mask(last):
    bold = run_of(torch.randn(6, 3, 4, 5) - 10)
    mask = torch.rand(1, 3, 4, 5) > 0.5
    image = time_last(bold) if last else bold
    before = image.clone()
    for value, outside in ((0.0, 0.0), (-3.5, -3.5), ("min", bold.as_tensor()[:, mask[0]].min())):
        result = apply_mask(image, mask[0] if last else mask, value=value)
        frames = result[0].movedim(-1, 0) if last else result
        assert torch.equal(frames.as_tensor()[:, mask[0]], bold.as_tensor()[:, mask[0]])
        assert (frames[:, ~mask[0]] == outside).all()
        assert result.meta["tr"] == 2.0
    assert torch.equal(image, before)


def test_masks_that_are_refused():
    bold = run_of(torch.randn(6, 3, 4, 5))
    mask = torch.ones(1, 3, 4, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="boolean"):
        apply_mask(bold, mask.float())
    with pytest.raises(ValueError, match=r"mask has shape \(1, 3, 4, 6\)"):
        apply_mask(bold, torch.ones(1, 3, 4, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="another grid"):
        apply_mask(bold, MetaTensor(mask, affine=torch.diag(torch.tensor([2.0, 1, 1, 1]))))
    with pytest.raises(ValueError, match="value is 'mean'"):
        apply_mask(bold, mask, value="mean")
