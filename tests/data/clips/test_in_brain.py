import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from nstorm.data.clips.dataset import ClipDataset
from nstorm.data.clips.in_brain import collate_brain, to_dense
from tests.data.clips.stores import AFFINE, SHAPE, brain, make_store

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "store", {"01": 2, "02": 1, "03": 1})


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("normalize", ["zscore", "global"])
def test_dense_again_is_the_dense_clip(store, normalize, workers, device):
    clips = ClipDataset(store, 6, normalize=normalize, output="brain")
    dense = ClipDataset(store, 6, normalize=normalize)
    [batch] = DataLoader(clips, batch_size=4, collate_fn=collate_brain, num_workers=workers)
    sizes = [int(brain(number).sum()) for number in range(4)]
    assert len(set(sizes)) > 1
    assert batch["image"].shape == (4, 6, max(sizes))
    assert ((batch["places"] >= 0).sum(1)).tolist() == sizes
    result = to_dense(batch["image"].to(device), batch["places"].to(device), batch["shape"], batch["background"])
    assert result.shape == (4, 1, *SHAPE, 6)
    assert result.is_contiguous()
    for number, image in enumerate(result):
        assert torch.equal(image.cpu(), dense[number]["image"].as_tensor())
    assert torch.equal(batch["affine"][0], torch.tensor(AFFINE))
    assert batch["subject"] == ["01", "01", "02", "03"]
    assert (batch["background"] != 0).all() == (normalize == "global")


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99), batch=st.integers(1, 3), frames=st.integers(1, 4), voxels=st.integers(0, 24),
    outside=st.sampled_from([0.0, -1.5]),
)  # fmt: skip
def test_voxels_go_to_their_places(seed, batch, frames, voxels, outside):
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, frames, voxels, generator=random)
    places = torch.stack([torch.randperm(24, generator=random)[:voxels] for _ in range(batch)]).int()
    places[torch.rand(places.shape, generator=random) < 0.2] = -1
    result = to_dense(values, places, (2, 3, 4), outside)
    for b in range(batch):
        expected = torch.full((24, frames), outside)
        for voxel, place in enumerate(places[b].tolist()):
            if place >= 0:
                expected[place] = values[b, :, voxel]
        assert torch.equal(result[b, 0].reshape(24, frames), expected)


def test_gradients_flow_to_the_voxels_that_have_a_place():
    values = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    places = torch.tensor([[7, 0, 3, -1, -1], [1, 2, 3, 4, 5]])
    assert torch.autograd.gradcheck(lambda x: to_dense(x, places, (2, 2, 2), torch.tensor([0.5, 0.0])), (values,))
    to_dense(values, places, (2, 2, 2)).sum().backward()
    assert torch.equal(values.grad, (places >= 0)[:, None].expand(2, 3, 5).double())


def test_different_grids_are_refused():
    shape = [torch.tensor([2, 2]), torch.tensor([2, 3]), torch.tensor([2, 2])]
    with pytest.raises(ValueError, match=r"different sizes \(\[2, 3\]\).*4mm"):
        to_dense(torch.zeros(2, 3, 5), torch.zeros(2, 5, dtype=torch.int32), shape)
