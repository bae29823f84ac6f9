import numpy as np
import pytest
import torch

from nstorm.layers import RandomMask, TubeMask
from nstorm.losses import MaskedReconstructionLoss, spread_tokens
from nstorm.nets import NeuroSTORMMAE
from nstorm.workflows import reconstruction_errors
from nstorm.workflows.reconstruction import ReconstructionErrors, interpolated


def small(mask):
    return NeuroSTORMMAE((9, 10, 8, 7), mask, feature_size=8, depths=(1, 1), patch_size=(3, 3, 3, 1), boundary="reset")


def test_lines_between_visible_frames_are_numpys():
    image, hidden = torch.randn(2, 1, 3, 2, 4, 11), torch.rand(2, 1, 3, 2, 4, 11) < 0.6
    hidden[0, 0, 1, 1, 1] = True
    made = interpolated(image, hidden)
    frames = np.arange(11)
    for place in np.ndindex(hidden.shape[:-1]):
        gone, series = hidden[place].numpy(), image[place].numpy()
        expected = np.interp(frames, frames[~gone], series[~gone]) if not gone.all() else np.zeros(11)
        np.testing.assert_allclose(made[place], expected, atol=1e-6)


def test_errors_are_those_of_hidden_voxels_in_the_brain():
    mae = small(RandomMask(0.5))
    mae.train()
    image, mask = torch.randn(3, 1, 9, 10, 8, 7), torch.rand(9, 10, 8) < 0.5
    masks = mask.expand(3, 1, -1, -1, -1)
    errors = reconstruction_errors(mae, [{"image": image, "mask": masks}], seed=4)
    assert mae.training
    mae.eval()
    with torch.no_grad():
        made = mae(image, mask, generator=torch.Generator().manual_seed(4))
    hidden = spread_tokens(made.token_mask[:, None], (3, 3, 3, 1), image.shape[2:]) & mask[..., None]
    np.testing.assert_allclose(errors.num_voxels, hidden.sum((1, 2, 3, 4)))
    wrong = ((image - made.prediction) * hidden).square().sum((1, 2, 3, 4))
    np.testing.assert_allclose(errors.model, wrong, rtol=1e-5)
    assert errors.model.sum() / errors.num_voxels.sum() == pytest.approx(made.loss.item(), rel=1e-5)
    np.testing.assert_allclose(errors.voxel_mean, (image * hidden).square().sum((1, 2, 3, 4)), rtol=1e-5)
    again = reconstruction_errors(mae, [{"image": image, "mask": masks}], seed=4)
    np.testing.assert_array_equal(again.model, errors.model)
    # batches make no difference for what is summed, only for the masks drawn
    twice = reconstruction_errors(mae, [{"image": image, "mask": masks}], seed=4, num_masks=2)
    assert (twice.num_voxels > errors.num_voxels).all()


def test_a_voxel_never_seen_is_filled_by_its_mean():
    mae = small(TubeMask(0.5))
    errors = reconstruction_errors(mae, [{"image": torch.randn(2, 1, 9, 10, 8, 7)}])
    np.testing.assert_allclose(errors.interpolation, errors.voxel_mean)


def test_the_estimates_compare_block_by_block():
    number = np.full((3, 7), 10.0)
    level = np.arange(21.0).reshape(3, 7)
    errors = ReconstructionErrors(level * 10, (level + 2) * 10, (level + 1) * 10, number)
    assert errors.mean("model", block=7).mean == pytest.approx(10.0)
    assert errors.mean("model", block=3).mean == pytest.approx(10.0)
    saved = errors.saved("voxel_mean", block=3)
    assert (saved.mean, saved.low, saved.high) == pytest.approx((2.0, 2.0, 2.0))
    # the last block of a clip may be shorter, and a block may have few voxels: they count as much as they hold
    number[:, 6] = 1.0
    uneven = ReconstructionErrors(level * number, level * number, level * number, number)
    expected = (level * number).sum() / number.sum()
    assert uneven.mean("model", block=3).mean == pytest.approx(expected)
    assert [line.split(":")[0].strip() for line in str(errors).splitlines()] == [
        "masked autoencoder",
        "between visible frames",
        "mean of each voxel",
    ]


def test_normalised_patches_are_judged_in_the_units_of_the_clip():
    mae = small(RandomMask(0.5))
    mae.loss = MaskedReconstructionLoss((3, 3, 3, 1), normalize_patches=True)
    image = torch.randn(2, 1, 9, 10, 8, 7) + 5 * torch.randn(2, 1, 1, 1, 1, 7)
    errors = reconstruction_errors(mae, [{"image": image}], seed=1)
    mae.eval()
    with torch.no_grad():
        made = mae(image, generator=torch.Generator().manual_seed(1))
    hidden = spread_tokens(made.token_mask[:, None], (3, 3, 3, 1), image.shape[2:])
    filled = mae.loss.in_target_units(made.prediction, image)
    np.testing.assert_allclose(errors.model, ((image - filled) * hidden).square().sum((1, 2, 3, 4)), rtol=1e-4)


def test_every_module_gets_its_own_mode_back_whatever_happens():
    mae = small(RandomMask(0.5)).train()
    mae.encoder.eval()
    mae.loss = torch.nn.Identity()
    with pytest.raises(TypeError):
        reconstruction_errors(mae, [{"image": torch.randn(1, 1, 9, 10, 8, 7)}])
    assert mae.training
    assert not mae.encoder.training
    assert mae.decoder.training


def test_nothing_to_reconstruct_is_refused():
    with pytest.raises(ValueError, match="batches is empty"):
        reconstruction_errors(small(RandomMask(0.5)), [])
