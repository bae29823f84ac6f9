import numpy as np
import pytest
import torch
from monai.utils import LossReduction
from torch.nn import functional as F

from nstorm.losses import MaskedReconstructionLoss

PATCH, SIZE, GRID = (3, 2, 4, 2), (7, 5, 6, 5), (3, 3, 2, 3)


def problem(dtype=torch.float32):
    x, y = torch.randn(2, 2, *SIZE, dtype=dtype), torch.randn(2, 2, *SIZE, dtype=dtype) * 3 + 1
    return x, y, torch.rand(2, *GRID) < 0.5, torch.rand(2, *SIZE[:3]) < 0.6


def patches():
    for h, w, d, t in np.ndindex(GRID):
        place = tuple(slice(i * p, (i + 1) * p) for i, p in zip((h, w, d, t), PATCH, strict=True))
        yield (h, w, d, t), place


def plainly(x, y, hidden, brain, error, normalize):
    """The sum of errors and the number of voxels, patch by patch."""
    total, number = 0.0, 0
    for n in range(len(x)):
        for cell, place in patches():
            if not hidden[(n, *cell)]:
                continue
            inside = brain[n][place[:3]][..., None].expand(*x[n, 0][place].shape)
            for c in range(x.shape[1]):
                made, wanted = x[n, c][place][inside], y[n, c][place][inside]
                if normalize and len(wanted):
                    wanted = (wanted - wanted.mean()) / (wanted.var(unbiased=False) + 1e-6).sqrt()
                total = total + error(made, wanted, reduction="sum")
                number += len(wanted)
    return total, number


ERRORS = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": lambda a, b, reduction: F.huber_loss(a, b, reduction=reduction, delta=0.7),
}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("in_brain", [False, True])
@pytest.mark.parametrize("error", ERRORS)
def test_it_is_what_is_plainly_computed(error, in_brain, normalize):
    x, y, hidden, brain = problem(torch.float64)
    x.requires_grad_()
    everywhere = torch.ones_like(brain)
    total, number = plainly(x, y, hidden, brain if in_brain else everywhere, ERRORS[error], normalize)
    (expected,) = torch.autograd.grad(total / number, x, retain_graph=True)
    for reduction, value in (("mean", total / number), ("sum", total), (LossReduction.SUM, total)):
        loss = MaskedReconstructionLoss(PATCH, error, normalize, delta=0.7, reduction=reduction)
        found = loss(x, y, hidden, brain if in_brain else None)
        torch.testing.assert_close(found, value)
        if reduction == "mean":
            (gradient,) = torch.autograd.grad(found, x)
            torch.testing.assert_close(gradient, expected)
    each = MaskedReconstructionLoss(PATCH, error, normalize, delta=0.7, reduction="none")(
        x, y, hidden, brain if in_brain else None
    )
    assert each.shape == x.shape
    torch.testing.assert_close(each.sum(), total)


def test_it_does_not_grow_with_the_ratio():
    x, y, *_ = problem()
    y = x + 2.0
    loss = MaskedReconstructionLoss(PATCH)
    few, many = torch.rand(2, *GRID) < 0.2, torch.rand(2, *GRID) < 0.9
    torch.testing.assert_close(loss(x, y, few), torch.tensor(4.0))
    torch.testing.assert_close(loss(x, y, many), torch.tensor(4.0))


def test_what_does_not_count_may_be_anything():
    x, y, hidden, brain = problem()
    loss = MaskedReconstructionLoss(PATCH, normalize_patches=True)
    spoilt = torch.where(brain[:, None, ..., None], y, torch.nan)
    torch.testing.assert_close(loss(x, spoilt, hidden, brain), loss(x, y, hidden, brain))


def test_one_brain_for_all_samples():
    x, y, hidden, brain = problem()
    loss = MaskedReconstructionLoss(PATCH, normalize_patches=True)
    torch.testing.assert_close(loss(x, y, hidden, brain[0]), loss(x, y, hidden, brain[:1].expand(2, -1, -1, -1)))


def test_shapes_that_would_broadcast_are_refused():
    x, y, hidden, brain = problem()
    loss = MaskedReconstructionLoss(PATCH)
    with pytest.raises(
        ValueError, match=r"input has shape \(2, 1, 7, 5, 6, 5\), but the target has \(2, 2, 7, 5, 6, 5\)"
    ):
        loss._check(x[:, :1], y, None)
    with pytest.raises(
        ValueError, match=r"brain_mask has shape \(2, 7, 5, 6\), expected \(7, 5, 6\) or \(1, 7, 5, 6\)"
    ):
        loss._check(x[:1], y[:1], brain)
    torch.testing.assert_close(loss(x, y, hidden, brain[:1]), loss(x, y, hidden, brain[0]))


@pytest.mark.parametrize("normalize", [False, True])
def test_half_precision_does_not_overflow(normalize):
    y = torch.randn(1, 1, 48, 48, 48, 8)
    hidden = torch.ones(1, 8, 8, 8, 8, dtype=torch.bool)
    loss = MaskedReconstructionLoss((6, 6, 6, 1), normalize_patches=normalize)
    exact = loss(y + 3.0, y, hidden)
    assert loss((y + 3.0).half(), y.half(), hidden).item() == pytest.approx(exact.item(), rel=1e-2)


@pytest.mark.parametrize("in_brain", [False, True])
def test_a_perfect_reconstruction_is_the_clip_in_its_own_units(in_brain):
    _, y, hidden, brain = problem(torch.float64)
    masks = (brain,) if in_brain else ()
    loss = MaskedReconstructionLoss(PATCH, normalize_patches=True)
    mean, std = loss._mean_and_std(y, *masks or (None,))
    perfect = (y - mean) / std
    assert loss(perfect, y, hidden, *masks) == 0
    torch.testing.assert_close(loss.in_target_units(perfect, y, *masks), y)
    assert MaskedReconstructionLoss(PATCH).in_target_units(y, y) is y


def test_gradcheck():
    x, y = (torch.randn(2, 1, 4, 3, 5, 3, dtype=torch.float64) for _ in range(2))
    hidden, brain = torch.rand(2, 2, 2, 2, 2) < 0.5, torch.rand(2, 4, 3, 5) < 0.6
    for error in ERRORS:
        loss = MaskedReconstructionLoss(PATCH, error, normalize_patches=True)
        assert torch.autograd.gradcheck(lambda a, loss=loss: loss(a, y, hidden, brain), x.requires_grad_())


def test_bad_options_are_named():
    with pytest.raises(ValueError, match=r"error 'l2' is unknown; choose one of \['mse', 'l1', 'huber'\]"):
        MaskedReconstructionLoss(error="l2")
    with pytest.raises(ValueError, match="reduction 'median' is unknown"):
        MaskedReconstructionLoss(reduction="median")
    with pytest.raises(ValueError, match=r"delta is 0\.0"):
        MaskedReconstructionLoss(delta=0.0)
    with pytest.raises(ValueError, match=r"patch_size \(6, 6, 6\) must have four positive entries"):
        MaskedReconstructionLoss((6, 6, 6))
    x, y, hidden, brain = problem()
    with pytest.raises(ValueError, match=r"token_mask has shape \(2, 3, 3, 2, 2\), expected \(2, 3, 3, 2, 3\)"):
        MaskedReconstructionLoss(PATCH)(x, y, hidden[..., :2])
    with pytest.raises(ValueError, match="token_mask hides no voxel that counts"):
        MaskedReconstructionLoss(PATCH)(x, y, hidden, torch.zeros_like(brain))
