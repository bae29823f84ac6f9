import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data.transforms.rand_frames import RandFrameDropout
from nstorm.data.transforms.rand_motion import RandMotion
from nstorm.data.transforms.rand_temporal import RandTemporalCrop, RandTemporalCropd, RandTemporalJitter

TR = 0.5


def make_run(frames=10, **meta):
    values = torch.arange(float(frames)).expand(1, 3, 4, 2, frames).clone()
    return MetaTensor(values, affine=torch.eye(4), meta={"tr": TR, **meta})


def test_crop_starts_everywhere_and_says_where():
    run = make_run(start_frame=100, start_time=50.0)
    crop = RandTemporalCrop(4).set_random_state(0)
    starts = []
    for _ in range(300):
        clip = crop(run)
        frames = clip.as_tensor()[0, 0, 0, 0].tolist()
        starts.append(int(frames[0]))
        assert frames == list(range(starts[-1], starts[-1] + 4))
        assert clip.meta["start_frame"] == 100 + starts[-1]
        assert clip.meta["start_time"] == pytest.approx(50 + starts[-1] * TR)
    counts = np.bincount(starts)
    assert len(counts) == 7
    assert counts.min() > 20


def test_crop_is_a_copy():
    run = make_run()
    clip = RandTemporalCrop(10)(run)
    assert torch.equal(clip, run)
    assert clip.untyped_storage().data_ptr() != run.untyped_storage().data_ptr()


def test_crop_cuts_what_meta_says_of_each_frame():
    run = RandFrameDropout(frame_prob=0.5).set_random_state(0)(RandMotion().set_random_state(0)(make_run()))
    crop = RandTemporalCrop(4).set_random_state(1)
    clip = crop(run)
    assert torch.equal(clip.meta["motion"], run.meta["motion"][crop.start : crop.start + 4])
    assert torch.equal(clip.meta["dropped"], run.meta["dropped"][crop.start : crop.start + 4])


def test_crop_that_does_not_fit():
    with pytest.raises(ValueError, match=r"num_frames \(11\) has to be at most the run's number of frames, 10"):
        RandTemporalCrop(11)(make_run())
    with pytest.raises(ValueError, match="num_frames is 0"):
        RandTemporalCrop(0)
    with pytest.raises(ValueError, match="keys that share a draw have to be equally long"):
        RandTemporalCropd(["long", "short"], 2).set_random_state(1)({"long": make_run(50), "short": make_run(3)})


@pytest.mark.parametrize("seed", range(4))
def test_jitter_shifts_a_sine_by_what_the_meta_says(seed):
    time = torch.arange(80.0, dtype=torch.float64) * TR
    sine = torch.sin(2 * torch.pi * 0.1 * time)
    run = MetaTensor(sine.expand(1, 2, 2, 2, 80), affine=torch.eye(4), meta={"tr": TR, "start_time": 7.0})
    jitter = RandTemporalJitter(max_shift=0.45).set_random_state(seed)
    shifted = jitter(run)
    assert abs(jitter.shift) > 0.01
    assert shifted.meta["start_time"] == pytest.approx(7 + jitter.shift)
    expected = torch.sin(2 * torch.pi * 0.1 * (time + jitter.shift))
    torch.testing.assert_close(shifted.as_tensor()[0, 0, 0, 0, 3:-3], expected[3:-3], rtol=0, atol=2e-3)


def test_jitter_keeps_lines_and_constants():
    jitter = RandTemporalJitter().set_random_state(0)
    shifted = jitter(make_run(20)).as_tensor()[0, 0, 0, 0]
    torch.testing.assert_close(shifted[2:-2], torch.arange(2.0, 18.0) + jitter.shift / TR)
    assert RandTemporalJitter()(torch.ones_like(make_run())).sub(1).abs().max() < 1e-6


def test_jitter_of_nothing_is_exact():
    run = make_run()
    assert torch.equal(RandTemporalJitter(max_shift=0.0)(run), run)


def test_jitter_moves_the_start_time():
    jitter = RandTemporalJitter().set_random_state(0)
    shifted = jitter(make_run(start_frame=6))
    assert shifted.meta["start_time"] == pytest.approx(6 * TR + jitter.shift)
    assert "start_frame" not in shifted.meta


def test_jitter_that_does_not_fit():
    with pytest.raises(
        ValueError, match=r"max_shift is 0\.5 s, but it has to be less than the repetition time, 0\.5 s"
    ):
        RandTemporalJitter(max_shift=0.5)(make_run())
    with pytest.raises(ValueError, match=r"max_shift is -1\.0 s"):
        RandTemporalJitter(max_shift=-1.0)
    with pytest.raises(ValueError, match="no repetition time"):
        RandTemporalJitter()(make_run().as_tensor())
