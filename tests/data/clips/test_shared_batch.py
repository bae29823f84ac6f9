import pytest
import torch
from monai.data import decollate_batch, list_data_collate
from torch.utils.data import DataLoader

from nstorm.data import ClipDataset, collate_clips
from nstorm.data.clips.shared_batch import shared_zeros
from nstorm.data.transforms import ZScoreVoxelsd
from tests.data.clips.stores import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "store", {"01": 2, "02": 1, "03": 1}, site="A")


@pytest.mark.parametrize("normalize", ["zscore", "global"])
@pytest.mark.parametrize("workers", [0, 1])
def test_the_batch_is_what_monai_makes_of_the_clips(store, normalize, workers):
    clips = ClipDataset(store, 6, clips_per_run=2, normalize=normalize)
    expected = list_data_collate([clips[index] for index in range(4)])
    found = next(iter(DataLoader(clips, batch_size=4, num_workers=workers, collate_fn=collate_clips)))
    assert found.keys() == expected.keys()
    image = found["image"]
    assert torch.equal(image.as_tensor(), expected["image"].as_tensor())
    assert image.is_batch
    assert torch.equal(image.affine, expected["image"].affine)
    assert image.meta.keys() == expected["image"].meta.keys()
    assert image.meta["filename_or_obj"] == expected["image"].meta["filename_or_obj"]
    assert torch.equal(found["mask"].as_tensor(), expected["mask"].as_tensor())
    assert [clip["subject"] for clip in decollate_batch(found)] == ["01", "01", "01", "01"]
    assert torch.equal(decollate_batch(found)[3]["image"].as_tensor(), image[3].as_tensor())


def test_clips_that_lie_next_to_each_other_are_not_copied():
    batch = shared_zeros((3, 1, 4, 5, 6, 7))
    assert collate_clips([{"image": clip} for clip in batch])["image"].data_ptr() == batch.data_ptr()
    # in another order, or with one left out, they are no batch
    batch[1] = 1
    for order in ([2, 1, 0], [0, 2], [1, 2]):
        found = collate_clips([{"image": batch[index]} for index in order])["image"]
        assert torch.equal(found, batch[order])
        assert found.data_ptr() != batch.data_ptr()


def test_clips_that_were_transformed_are_stacked(store):
    clips = ClipDataset(store, 6, transform=ZScoreVoxelsd("image"))
    found = next(iter(DataLoader(clips, batch_size=2, num_workers=1, collate_fn=collate_clips)))
    assert torch.equal(found["image"][1].as_tensor(), clips[1]["image"].as_tensor())
