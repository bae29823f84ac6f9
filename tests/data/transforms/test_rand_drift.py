import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from scipy.fft import dct

from nstorm.data.transforms.rand_drift import RandDrift


def make_clip(frames=12):
    values = torch.rand(1, 9, 8, 7, frames, dtype=torch.float64) + 100
    return MetaTensor(values, affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]).double()), meta={"tr": 2.0})


@pytest.mark.parametrize("spacing", [None, 10.0])
def test_drift_is_slow_small_and_keeps_the_mean(spacing):
    clip = make_clip(frames=15)
    drifted = RandDrift(amplitude_range=(3.0, 3.0), order=2, spacing=spacing).set_random_state(0)(clip)
    mean = clip.as_tensor().mean(dim=-1, keepdim=True)
    drift = (drifted - clip).as_tensor() / mean * 100
    torch.testing.assert_close(drifted.as_tensor().mean(dim=-1, keepdim=True), mean)
    assert 0.3 < drift.abs().max() <= 3
    spectrum = np.abs(dct(drift.numpy(), axis=-1))
    assert spectrum[..., 1:3].max() > 0.1
    assert spectrum[..., [0, *range(3, 15)]].max() < 1e-4
    alike = torch.allclose(drift, drift[:, :1, :1, :1].expand(drift.shape))
    assert alike == (spacing is None)


def test_local_drift_is_smooth_in_space():
    clip = make_clip()
    drift = (RandDrift(amplitude_range=(3.0, 3.0), spacing=20.0).set_random_state(0)(clip) - clip).as_tensor()
    assert drift.diff(dim=1).abs().max() < 0.5 * drift.abs().max()


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_few_frames_keep_their_mean(frames):
    clip = make_clip(frames)
    drifted = RandDrift(amplitude_range=(3.0, 3.0), order=5).set_random_state(0)(clip)
    torch.testing.assert_close(drifted.mean(dim=-1).as_tensor(), clip.mean(dim=-1).as_tensor())
    assert torch.equal(drifted, clip) == (frames == 1)


def test_channels_drift_by_themselves():
    clip = make_clip().as_tensor()
    both = RandDrift().set_random_state(0)(torch.cat([clip, 2 * clip]))
    torch.testing.assert_close(both[:1], RandDrift().set_random_state(0)(clip))
    torch.testing.assert_close(both[1], 2 * both[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandDrift(order=0), "order is 0"),
        (lambda: RandDrift(spacing=0.0), "spacing is 0.0 mm, but it has to be a finite distance above 0"),
        (lambda: RandDrift(amplitude_range=(2.0, 1.0)), r"amplitude_range is \(2\.0, 1\.0\)"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
