import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor

from nstorm.data.published import prepare_published
from nstorm.data.space.orientation import reorient
from tests.conftest import load_golden

LAS = torch.diag(torch.tensor([-2.0, 2.0, 2.0, 1.0], dtype=torch.float64))


def run(values, spacing=2.0, tr=0.8, **meta):
    affine = torch.diag(torch.tensor([-spacing, spacing, spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([90.0, -126.0, -72.0])
    return MetaTensor(values, affine=affine, meta={"tr": tr, **meta})


def brain(shape=(5, 9, 11, 7)):
    values = 1000 + 100 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values[:, 0] = 0
    values[:, :, -1] = 0
    return values


@pytest.mark.parametrize("index", [0, 1])
def test_golden(index):
    golden = load_golden(f"preprocessing_{index}")
    spacing, tr = golden.config["voxel_mm"][0], golden.config["tr_s"]
    bold = run(golden.tensors["bold"].movedim(-1, 0), spacing, tr)
    frames, step = prepare_published(bold, quantize=True)
    apart = (frames.as_tensor().int() - golden.tensors["frames_int8"].int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 1e-4
    assert step == pytest.approx(float(golden.tensors["scale"]), rel=1e-6)
    assert frames.meta["tr"] == 0.8
    torch.testing.assert_close(prepare_published(bold).as_tensor(), frames.as_tensor() * step)


@pytest.mark.parametrize("axcodes", ["RAS", "PIR"])
def test_other_orders_of_the_axes_are_turned_to_las(axcodes, caplog):
    bold = run(brain(), filename_or_obj="sub-01_bold.nii.gz")
    with caplog.at_level(logging.INFO, "nstorm.data"):
        expected = prepare_published(bold)
        assert not caplog.records
        turned = prepare_published(reorient(bold, axcodes))
    assert caplog.messages == [f"sub-01_bold.nii.gz is turned from {axcodes} to LAS"]
    torch.testing.assert_close(turned, expected)
    torch.testing.assert_close(turned.affine, expected.affine)
    kept = prepare_published(reorient(bold, "RAS"), axcodes=None)
    torch.testing.assert_close(kept.as_tensor(), expected.as_tensor().flip(1))


def test_mask_is_turned_with_the_run():
    bold = run(brain())
    mask = bold[0] > 0
    mask[4:] = False
    ras = reorient(bold, "RAS")
    expected = prepare_published(bold, mask=mask.as_tensor())
    torch.testing.assert_close(prepare_published(ras, mask=mask.as_tensor().flip(0)), expected)
    assert not torch.allclose(expected, prepare_published(bold))


@pytest.mark.parametrize("pad_to", [None, 96])
def test_voxels_keep_their_place_in_mm(pad_to):
    """A ramp over the millimetres of the input is the same ramp over those of the result."""
    shape = (31, 75, 40)
    indices = torch.cartesian_prod(*(torch.arange(float(n)) for n in shape)).double()
    bold = run(torch.zeros(1, *shape), spacing=3.0)
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    places = indices @ bold.affine[:3, :3].T + bold.affine[:3, 3]
    bold[0] = (1000 + places @ slope).view(shape)
    frames, _ = prepare_published(bold, pad_to=pad_to, quantize=True)
    # the outer voxels repeat the edge, or are background
    inner = torch.zeros(frames.shape[1:], dtype=torch.bool)
    inside = [slice(2, -2)] * 3 if pad_to is None else [slice(27, 69), slice(2, -2), slice(20, 76)]
    inner[*inside] = True
    found = inner.nonzero().double()
    expected = (found @ frames.affine[:3, :3].T + frames.affine[:3, 3]) @ slope
    values = frames[0][inner].double().as_tensor()
    fit = np.polyfit(expected, values, 1)
    assert np.abs(np.polyval(fit, expected) - values.numpy()).max() < 0.6
    assert fit[0] > 0


def test_mni152_volume_is_cropped_and_padded_as_published():
    values = torch.rand(2, 91, 109, 91, generator=torch.Generator().manual_seed(0)) + 1
    prepared = prepare_published(run(values), pad_to=96)
    assert prepared.shape == (2, 96, 96, 96)
    filled = prepared[:, 3:94, :, 3:94]
    np.testing.assert_allclose(np.corrcoef(filled.flatten(), values[:, :, 6:102].flatten())[0, 1], 1, atol=1e-3)
    outside = torch.ones(96, 96, 96, dtype=torch.bool)
    outside[3:94, :, 3:94] = False
    assert (prepared[:, outside] == prepared.min()).all()
    assert prepared.affine[:3, 3].tolist() == [96.0, -114.0, -78.0]


def test_rule():
    values = brain()
    values[2, 3, 3, 3] = -50.0
    prepared = prepare_published(run(values))
    part = values != 0
    positive = values.clamp(min=0)[part].double()
    expected = (positive - positive.mean()) / positive.std()
    assert (prepared[part] - expected).abs().max() < 0.51 * expected.abs().max() / 127
    assert (prepared[~part] == prepared.min()).all()
    assert prepared.abs().max() == pytest.approx(expected.abs().max().item(), rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(*[st.integers(2, 9)] * 3),
    num_frames=st.integers(1, 12),
    spacing=st.floats(1.5, 4),
    tr=st.floats(0.5, 3),
    seed=st.integers(0, 9),
)
def test_any_run_fills_the_range_of_int8(size, num_frames, spacing, tr, seed):
    values = 100 + torch.randn(num_frames, *size, generator=torch.Generator().manual_seed(seed))
    values[:, 0, 0, 0] = 0
    frames, step = prepare_published(run(values, spacing, tr), quantize=True)
    assert frames.shape == (max(round(num_frames * tr / 0.8), 1), *(round(n * spacing / 2) for n in size))
    assert frames.dtype == torch.int8
    assert frames.int().abs().max() == 127
    assert 0 < step < 1
    torch.testing.assert_close(frames.affine[:3, :3].norm(dim=0), torch.full((3,), 2.0).double(), rtol=0.3, atol=0)


def test_layouts_and_meta_and_input():
    bold = run(brain(), tr=2.0, start_frame=3, start_time=6.0, subject="01")
    before = bold.clone()
    prepared = prepare_published(bold)
    last = prepare_published(bold.movedim(0, -1)[None])
    assert last.shape == (1, 9, 11, 7, 12)
    torch.testing.assert_close(last[0].movedim(-1, 0).as_tensor(), prepared.as_tensor())
    assert {key: prepared.meta[key] for key in ("tr", "start_time", "subject")} == {
        "tr": 0.8, "start_time": 6.0, "subject": "01"
    }  # fmt: skip
    assert "start_frame" not in prepared.meta
    assert prepare_published(run(brain(), start_frame=3)).meta["start_frame"] == 3
    assert torch.equal(bold, before)
    assert bold.meta["tr"] == 2.0


def test_plain_tensor():
    with pytest.raises(ValueError, match=r"read it with nstorm\.data\.load_bold"):
        prepare_published(brain())


def test_run_of_zeros():
    with pytest.raises(ValueError, match="bold has no voxel but background"):
        prepare_published(run(torch.zeros(5, 9, 11, 7)))


def test_run_of_one_value():
    with pytest.raises(ValueError, match="bold has one value in all voxels that are not background"):
        prepare_published(run(torch.full((5, 9, 11, 7), 1000.1)))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite(value):
    values = brain()
    values[2, 3, 3, 3] = value
    with pytest.raises(ValueError, match="bold has NaN or infinite values: replace them"):
        prepare_published(run(values))


def test_larger_than_the_size_to_pad_to():
    with pytest.raises(ValueError, match=r"the run has \(9, 11, 7\) voxels of 2 mm, more than pad_to \(10\)"):
        prepare_published(run(brain()), pad_to=10)
