import pytest
import torch
from monai.data import MetaTensor
from torch.utils.data import DataLoader

from nstorm.data import ClipDataset, collate_brain, collate_clips, haxby_runs, prepare
from nstorm.workflows import prepare_clips


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    runs = [{"image": run.bold} for run in haxby_runs()[:3]]
    return prepare(runs, tmp_path_factory.mktemp("store"), progress=False)


def batch_of(store, output, indices=(0, 1, 2)):
    clips = ClipDataset(store, 6, output=output)
    collate = {"dense": collate_clips, "brain": collate_brain}[output]
    return next(iter(DataLoader(torch.utils.data.Subset(clips, indices), len(indices), collate_fn=collate)))


@pytest.mark.parametrize("indices", [(0, 1, 2), (1, 1), (2,)], ids=["masks that differ", "one mask", "one clip"])
def test_both_outputs_of_a_store_are_the_same_to_a_network(store, indices):
    dense, target, args, options = prepare_clips(batch_of(store, "dense", indices), "cpu")
    again, _, _, other = prepare_clips(batch_of(store, "brain", indices), "cpu")
    assert type(dense) is type(again) is torch.Tensor
    assert target is dense
    assert args == ()
    assert torch.equal(dense, again)
    assert torch.equal(options["brain_mask"], other["brain_mask"])
    assert options["brain_mask"].dtype == other["brain_mask"].dtype == torch.bool
    assert not options["brain_mask"].all()


def test_one_mask_for_all_is_given_once(store):
    size = (40, 20, 1)
    for output in ("dense", "brain"):
        masks = [batch_of(store, output, indices) for indices in ((1, 1), (0, 1, 2))]
        same, each = (prepare_clips(batch, "cpu")[3]["brain_mask"] for batch in masks)
        assert same.shape == size
        assert each.shape in ((3, *size), size)
    # two brains
    mask = torch.zeros(2, 1, 3, 4, 2)
    mask[0, 0, 1] = mask[1, 0, 2] = 1.0
    batch = {"image": MetaTensor(torch.randn(2, 1, 3, 4, 2, 5)), "mask": MetaTensor(mask)}
    image, _, _, options = prepare_clips(batch, "cpu")
    assert type(image) is type(options["brain_mask"]) is torch.Tensor
    assert torch.equal(options["brain_mask"], mask[:, 0] == 1)
    places = torch.tensor([[0, 5, -1], [1, 2, 3]])
    batch = {
        "image": torch.ones(2, 5, 3),
        "places": places,
        "shape": (2, 3, 1),
        "background": torch.tensor([0.0, -2.0]),
    }
    image, _, _, options = prepare_clips(batch, "cpu")
    assert options["brain_mask"].flatten(1).tolist() == [[1, 0, 0, 0, 0, 1], [0, 1, 1, 1, 0, 0]]
    assert image[1, 0, ..., 0].flatten().tolist() == [-2, 1, 1, 1, -2, -2]


def test_without_a_mask_there_is_none():
    image, _, _, options = prepare_clips({"image": torch.randn(1, 1, 3, 4, 2, 5)}, "cpu", dtype=torch.float64)
    assert image.dtype == torch.float64
    assert options == {}
