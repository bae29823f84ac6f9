import pickle

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, decollate_batch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose

from nstorm.data import time_first, time_last
from nstorm.data.space.crop_or_pad import crop_or_pad, crop_to_mask
from nstorm.data.space.grid import Grid, grid_of
from nstorm.data.space.orientation import reorient
from nstorm.data.space.resample_space import resample_space
from nstorm.data.transforms.spatial import (
    CropOrPad,
    CropOrPadd,
    CropToMask,
    CropToMaskd,
    Reorient,
    Reorientd,
    ResampleSpace,
    ResampleSpaced,
)

AFFINE = torch.tensor([[-2.0, 0.1, 0, 30], [0, 3, 0.4, -20], [0.2, 0, 4, 5], [0, 0, 0, 1]], dtype=torch.float64)
SHAPE = (9, 8, 7)
TARGET = Grid((8, 9, 6), torch.tensor([[2.2, 0, 0.1, 14], [0, 2.5, 0, -20], [0, 0.3, 4, 5], [0, 0, 0, 1.0]]))


def smooth_run(frames=5, shape=SHAPE):
    """A run without detail, which resampling hardly changes."""
    places = torch.cartesian_prod(*(torch.linspace(0, 1, n, dtype=torch.float64) for n in shape)).view(*shape, 3)
    values = torch.stack(
        [torch.sin(places @ torch.tensor([0.5, k / 4, 1.0], dtype=torch.float64)) for k in range(frames)]
    )
    return MetaTensor(values, affine=AFFINE, meta={"tr": 2.0, "subject": "a"})


def brain():
    mask = torch.zeros(1, *SHAPE, dtype=torch.bool)
    mask[:, 2:8, 3:7, 1:6] = True
    return MetaTensor(mask, affine=AFFINE)


TRANSFORMS = [
    (Reorient("LAS"), lambda run: reorient(run, "LAS")),
    (Reorient("SPL"), lambda run: reorient(run, "SPL")),
    (ResampleSpace(TARGET, padding="border"), lambda run: resample_space(run, TARGET, padding="border")),
    (ResampleSpace((1.5, 2.0, 3.0)), lambda run: resample_space(run, (1.5, 2.0, 3.0))),
    (CropOrPad(8), lambda run: crop_or_pad(run, 8)),
    (CropOrPad((12, 4, 7), value="min"), lambda run: crop_or_pad(run, (12, 4, 7), value="min")),
]
IDS = ["reorient-las", "reorient-spl", "resample-grid", "resample-mm", "crop-or-pad-8", "crop-or-pad"]


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize(("transform", "function"), TRANSFORMS, ids=IDS)
def test_does_what_the_function_does_and_can_be_undone(transform, function, last):
    run = time_last(smooth_run()) if last else smooth_run()
    before, affine = run.clone(), run.affine.clone()
    result = pickle.loads(pickle.dumps(transform))(run)
    assert torch.equal(result, function(run))
    assert grid_of(result) == grid_of(function(run))
    assert (result.meta["tr"], result.meta["subject"]) == (2.0, "a")

    result = transform(run)
    assert len(result.applied_operations) == 1
    back = transform.inverse(result)
    assert back.shape == run.shape
    assert grid_of(back) == grid_of(run)
    assert back.applied_operations == []
    there = time_first(crop_or_pad(run, (5, 4, 5))), time_first(crop_or_pad(back, (5, 4, 5)))
    exact = not isinstance(transform, ResampleSpace)
    torch.testing.assert_close(there[1].as_tensor(), there[0].as_tensor(), rtol=0, atol=0 if exact else 0.03)

    assert torch.equal(run, before)
    assert torch.equal(run.affine, affine)
    assert run.applied_operations == []


def test_the_inverse_of_a_crop_has_zeros_where_something_was_lost():
    run = smooth_run() + 3
    crop = CropOrPad((12, 4, 7), value=-1.0)
    back = crop.inverse(crop(run))
    assert torch.equal(back[:, :, 2:6], run[:, :, 2:6])
    assert (back[:, :, :2] == 0).all()
    assert (back[:, :, 6:] == 0).all()


def test_tensors_without_an_affine_can_be_cropped_only():
    plain = torch.rand(2, 5, 6, 7)
    assert torch.equal(CropOrPad(4)(plain), crop_or_pad(plain, 4))
    for transform in (Reorient(), ResampleSpace(2.0)):
        with pytest.raises(ValueError, match="plain tensor"):
            transform(plain)


def test_dictionary_forms_compose_on_run_and_mask_and_invert():
    item = {"image": smooth_run().float(), "mask": brain(), "subject": "a"}
    both = ("image", "mask")
    compose = Compose([Reorientd(both), ResampleSpaced(both, 2.5), CropOrPadd(both, 10, mask_key="mask")])
    out = pickle.loads(pickle.dumps(compose))(item)
    assert out["image"].shape == (5, 10, 10, 10)
    assert out["mask"].shape == (1, 10, 10, 10)
    assert out["mask"].dtype == torch.bool
    assert grid_of(out["image"]) == grid_of(out["mask"])
    # the middle of the mask lies in the middle
    voxels = out["mask"][0].as_tensor().nonzero().double()
    assert ((voxels.amin(0) + voxels.amax(0)) / 2 - 4.5).abs().max() <= 0.5

    back = compose.inverse(compose(item))
    for key in both:
        assert back[key].shape == item[key].shape
        assert grid_of(back[key]) == grid_of(item[key])
    assert (back["mask"] != item["mask"]).float().mean() < 0.15
    inside = item["mask"][0].as_tensor() & back["mask"][0].as_tensor()
    torch.testing.assert_close(
        back["image"].as_tensor()[:, inside], item["image"].as_tensor()[:, inside], rtol=0, atol=0.1
    )


def test_crop_to_a_mask():
    item = {"image": smooth_run(), "brain": brain()}
    crop = CropToMaskd(("image", "brain"), margin=1, multiple=4, mask_key="brain")
    out = crop(item)
    assert out["image"].shape == (5, 8, 8, 8)
    assert out["brain"].sum() == item["brain"].sum()
    assert torch.equal(out["image"], crop_to_mask(item["image"], item["brain"], margin=1, multiple=4))
    back = crop.inverse(out)
    assert torch.equal(back["brain"], item["brain"])
    inside = item["brain"][0].as_tensor()
    assert torch.equal(back["image"].as_tensor()[:, inside], item["image"].as_tensor()[:, inside])
    with pytest.raises(KeyError, match="mask_key is 'mask', but the item has only the keys"):
        CropToMaskd("image")(item)
    with pytest.raises(ValueError, match="mask is None"):
        CropToMask()(item["image"])


def test_a_batch_is_taken_back_item_by_item():
    items = [{"image": smooth_run()}, {"image": MetaTensor(smooth_run() + 1, affine=AFFINE, meta={"tr": 2.0})}]
    compose = Compose([Reorientd("image", "LAS"), ResampleSpaced("image", 3.0), CropOrPadd("image", 8)])
    batch = next(iter(DataLoader(Dataset(items, compose), batch_size=2)))
    assert batch["image"].shape == (2, 5, 8, 8, 8)
    for item, part in zip(items, decollate_batch(batch), strict=True):
        back = compose.inverse(part)
        assert grid_of(back["image"]) == grid_of(item["image"])
        middle = np.s_[:, 3:6, 3:5, 3:5]
        torch.testing.assert_close(
            back["image"].as_tensor()[middle], item["image"].as_tensor()[middle], rtol=0, atol=0.05
        )


def test_arguments_are_those_of_the_array_form():
    assert Reorientd("image", axcodes="LPI").transform.axcodes == "LPI"
    assert CropOrPadd("image", (1, 2, 3), value="min").transform.size == (1, 2, 3)
    with pytest.raises(KeyError):
        ResampleSpaced("image", 2.0)({"other": smooth_run()})
    item = {"other": smooth_run()}
    assert ResampleSpaced("image", 2.0, allow_missing_keys=True)(item) == item
