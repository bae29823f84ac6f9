import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data.transforms.rand_frames import RandFrameDropout, RandSpikes


def make_clip(frames=12):
    values = torch.rand(1, 9, 8, 7, frames, dtype=torch.float64) + 100
    return MetaTensor(values, affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]).double()), meta={"tr": 2.0})


def test_spikes_are_where_the_meta_says():
    clip = make_clip()
    transform = RandSpikes(num_spikes=(2, 4), amplitude_range=(5.0, 10.0)).set_random_state(0)
    counts = set()
    signs = set()
    for _ in range(30):
        spiked = transform(clip)
        spikes = spiked.meta["spikes"]
        hit = spikes != 0
        counts.add(int(hit.sum()))
        signs |= set(spikes[hit].sign().tolist())
        assert ((spikes[hit].abs() >= 5) & (spikes[hit].abs() <= 10)).all()
        assert torch.equal(spiked.as_tensor()[..., ~hit], clip.as_tensor()[..., ~hit])
        share = (spiked - clip).as_tensor() / clip.as_tensor().mean(dim=-1, keepdim=True) * 100
        torch.testing.assert_close(share, spikes.expand(share.shape))
    assert counts == {2, 3, 4}
    assert signs == {-1.0, 1.0}


def test_more_spikes_than_frames():
    assert RandSpikes(num_spikes=(5, 5))(make_clip(frames=3)).meta["spikes"].ne(0).all()


def lost_and_filled(fill, seed):
    clip = make_clip()
    result = RandFrameDropout(frame_prob=0.5, fill=fill).set_random_state(seed)(clip)
    return clip.as_tensor(), result.as_tensor(), result.meta["dropped"].numpy()


@pytest.mark.parametrize("seed", range(6))
def test_dropout(seed):
    clip, zeroed, lost = lost_and_filled("zero", seed)
    assert torch.equal(zeroed, torch.where(torch.from_numpy(lost), 0.0, clip))
    kept = np.flatnonzero(~lost)

    clip, held, _ = lost_and_filled("previous", seed)
    source = [max([k for k in kept if k <= frame], default=kept[0]) for frame in range(12)]
    assert torch.equal(held, clip[..., source])

    clip, joined, _ = lost_and_filled("interpolate", seed)
    voxel = clip[0, 1, 2, 3].numpy()
    np.testing.assert_allclose(joined[0, 1, 2, 3].numpy(), np.interp(np.arange(12), kept, voxel[kept]))


def test_dropout_probability_and_survivor():
    transform = RandFrameDropout(frame_prob=0.2).set_random_state(0)
    clip = make_clip(frames=100)
    lost = []
    for _ in range(20):
        transform.randomize(clip)
        lost.append(transform.dropped.mean())
    assert np.mean(lost) == pytest.approx(0.2, abs=0.03)
    everything = RandFrameDropout(frame_prob=1.0, fill="interpolate").set_random_state(0)(make_clip())
    assert everything.meta["dropped"].sum() == 11
    assert torch.equal(everything.as_tensor(), everything.as_tensor()[..., :1].expand(everything.shape))
    none = RandFrameDropout(frame_prob=0.0)(clip)
    assert torch.equal(none, clip)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandSpikes(num_spikes=(3, 1)), r"num_spikes is \(3\.0, 1\.0\)"),
        (lambda: RandFrameDropout(frame_prob=1.2), r"frame_prob is 1\.2"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("transform", [RandSpikes(), RandFrameDropout()], ids=["spikes", "dropout"])
def test_another_number_of_frames(transform):
    transform(make_clip())
    with pytest.raises(ValueError, match="the image has 5 frames, but 12 were drawn for"):
        transform(make_clip(frames=5), randomize=False)
