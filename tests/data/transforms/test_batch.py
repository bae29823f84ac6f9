import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import list_data_collate
from monai.transforms import Compose

from nstorm.data.transforms.batch import OnBatch
from nstorm.data.transforms.rand_affine import RandBOLDAffine, RandBOLDAffined
from nstorm.data.transforms.rand_intensity import RandBOLDNoise, RandBOLDNoised
from nstorm.data.transforms.rand_motion import RandMotion


def make_clip(tr=0.8):
    sizes = torch.tensor([2.0, 3.0, 4.0, 1.0]).double()
    return MetaTensor(torch.rand(1, 9, 8, 7, 5), affine=torch.diag(sizes), meta={"tr": tr, "subject": f"{tr}"})


def augment():
    return Compose([RandBOLDAffine(rotate_range=0.3, translate_range=4.0), RandBOLDNoise(prob=0.5)])


def test_a_fresh_draw_for_every_sample():
    clip = make_clip()
    batch = torch.stack([clip.as_tensor()] * 3)
    before = batch.clone()
    result = OnBatch(augment()).set_random_state(0)(batch)
    assert type(result) is torch.Tensor
    assert result.shape == batch.shape
    assert torch.equal(batch, before)
    assert not torch.equal(result[0], result[1])
    assert not torch.equal(result[1], result[2])
    assert torch.equal(OnBatch(augment()).set_random_state(0)(batch), result)


def test_equals_one_after_another():
    clips = [make_clip(), make_clip(tr=2.0)]
    result = OnBatch(augment()).set_random_state(5)(list_data_collate(clips))
    single = OnBatch(augment()).set_random_state(5)
    expected = [single(list_data_collate([clip]))[0] for clip in clips]
    for sample, alone in zip(result, expected, strict=True):
        assert torch.equal(sample.as_tensor(), alone.as_tensor())
        assert torch.equal(sample.affine, alone.affine)
    assert result.meta["tr"].tolist() == [0.8, 2.0]
    assert result.meta["subject"] == ["0.8", "2.0"]


def test_dictionary_batches():
    items = [{"image": make_clip(), "label": number, "subject": f"{number}"} for number in range(3)]
    batch = list_data_collate(items)
    transform = Compose([RandBOLDAffined("image", rotate_range=0.3), RandBOLDNoised("image")])
    result = OnBatch(transform).set_random_state(0)(batch)
    assert result["image"].shape == (3, 1, 9, 8, 7, 5)
    assert result["label"].tolist() == [0, 1, 2]
    assert result["subject"] == ["0", "1", "2"]
    assert not torch.equal(result["image"], batch["image"])


def test_samples_some_of_which_moved():
    batch = list_data_collate([make_clip() for _ in range(6)])
    moved = OnBatch(RandMotion(prob=0.5)).set_random_state(0)(batch)
    changed = [not torch.equal(a, b) for a, b in zip(moved.as_tensor(), batch.as_tensor(), strict=True)]
    assert 0 < sum(changed) < 6
