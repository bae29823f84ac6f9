import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose

from nstorm.data.clips.cut import strided_clips
from nstorm.data.transforms.rand_affine import RandBOLDAffined
from nstorm.data.transforms.rand_intensity import RandBOLDNoise
from nstorm.data.transforms.rand_temporal import RandTemporalCropd
from nstorm.data.transforms.views import Views, Viewsd


def make_clip(seed=0):
    values = torch.rand(1, 9, 8, 7, 6, generator=torch.Generator().manual_seed(seed))
    return MetaTensor(values, affine=torch.eye(4), meta={"tr": 0.8, "start_frame": 0, "start_time": 0.0})


def memory(tensor):
    return tensor.untyped_storage().data_ptr()


def add_one_in_place(img):
    return img.add_(1)


@pytest.mark.parametrize("transform", [RandBOLDNoise(prob=0.0), add_one_in_place], ids=["not applied", "in place"])
def test_views_share_nothing(transform):
    clip = make_clip()
    before = clip.as_tensor().clone()
    views = Views(transform, num_views=3)(clip)
    assert len({memory(x) for x in (clip, *views)}) == 4
    assert torch.equal(clip.as_tensor(), before)
    # what is done to one view does not add up in the next
    assert all(torch.equal(view, views[0]) for view in views)
    views[0].meta["tr"] = 5.0
    assert (clip.meta["tr"], views[1].meta["tr"]) == (0.8, 0.8)


def test_dictionary_views_share_nothing():
    clip = make_clip()
    before = clip.as_tensor().clone()

    def in_place(item):
        item["image"].add_(1)
        return item

    result = Viewsd("image", in_place)({"image": clip, "label": 1})
    assert torch.equal(clip.as_tensor(), before)
    assert torch.equal(result["image"], clip)
    assert torch.equal(result["image_0"].as_tensor(), before + 1)
    assert torch.equal(result["image_1"].as_tensor(), before + 1)
    assert memory(result["image_0"]) != memory(result["image_1"])


def test_views_of_a_clip_of_a_run_in_memory_leave_the_run_behind():
    run = MetaTensor(torch.rand(100, 9, 8, 7), affine=torch.eye(4), meta={"tr": 0.8})
    item = strided_clips(run, 6)[3]
    views = [*Views(RandBOLDNoise(prob=0.0))(item["image"]), Viewsd("image", lambda item: item)(item)["image_1"]]
    for view in views:
        assert torch.equal(view, item["image"])
        assert view.untyped_storage().nbytes() == view.numel() * 4
        assert view.meta["start_frame"] == 18


def augment():
    return Compose([RandTemporalCropd("image", 3), RandBOLDAffined(["image", "mask"], rotate_range=0.4)])


def test_views_are_drawn_independently_with_their_masks():
    clip = make_clip()
    item = {"image": clip, "mask": MetaTensor(clip.as_tensor()[..., 0] > 0.5, affine=clip.affine), "label": 1}
    make = Viewsd(["image", "mask"], augment(), num_views=3).set_random_state(0)
    result = make(item)
    assert set(result) == {"image", "mask", "label", *(f"{key}_{n}" for key in ("image", "mask") for n in range(3))}
    assert not torch.equal(result["image_0"], result["image_1"])
    assert not torch.equal(result["image_0"].affine, result["image_1"].affine)
    torch.testing.assert_close(result["image_2"].affine, result["mask_2"].affine)
    again = Viewsd(["image", "mask"], augment(), num_views=3).set_random_state(0)(item)
    assert all(torch.equal(again[f"image_{n}"], result[f"image_{n}"]) for n in range(3))
    starts = {make(item)[f"image_{n}"].meta["start_frame"] for _ in range(10) for n in range(3)}
    assert starts == {0, 1, 2, 3}


def test_views_in_a_loader():
    items = [{"image": make_clip(seed), "mask": torch.ones(1, 9, 8, 7, dtype=torch.bool)} for seed in range(4)]
    views = Viewsd("image", augment())

    def batches():
        torch.manual_seed(1)
        return list(DataLoader(Dataset(items, views), batch_size=2, num_workers=2))

    first, second = batches()
    assert first["image_0"].shape == first["image_1"].shape == (2, 1, 9, 8, 7, 3)
    assert first["image_1"].meta["start_time"].shape == (2,)
    assert not torch.equal(first["image_0"], first["image_1"])
    assert torch.equal(batches()[1]["image_1"], second["image_1"])


@pytest.mark.parametrize("make", [lambda: Views(add_one_in_place, 0), lambda: Viewsd("image", add_one_in_place, 0)])
def test_no_views(make):
    with pytest.raises(ValueError, match="num_views is 0"):
        make()
