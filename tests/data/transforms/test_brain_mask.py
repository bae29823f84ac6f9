import inspect
import pickle

import pytest
import torch

from nstorm.data import load_bold, rest_run, time_last
from nstorm.data.space.brain_mask import apply_mask, brain_mask
from nstorm.data.transforms.brain_mask import ApplyMask, ApplyMaskd, BrainMask, BrainMaskd
from nstorm.data.transforms.spatial import CropToMaskd


@pytest.fixture(scope="module")
def run():
    return load_bold(rest_run().bold)[:20]


def test_a_mask_comes_into_the_item(run):
    item = {"image": time_last(run), "label": 1}
    find = pickle.loads(pickle.dumps(BrainMaskd("image", opening=1, mask_key="brain")))
    out = find(item)
    assert torch.equal(out["brain"], brain_mask(run, opening=1))
    assert torch.equal(BrainMask(opening=1)(run), out["brain"])
    assert set(item) == {"image", "label"}
    masked = ApplyMaskd("image", "min", mask_key="brain")(out)["image"]
    assert torch.equal(masked, apply_mask(item["image"], out["brain"], value="min"))
    assert torch.equal(ApplyMask()(run, out["brain"]), apply_mask(run, out["brain"]))


def test_keys(run):
    with pytest.raises(ValueError, match="one mask is made of one run"):
        BrainMaskd(("a", "b"))
    with pytest.raises(KeyError, match="mask_key is 'mask', but the item has only the keys"):
        ApplyMaskd("image")({"image": run})
    assert BrainMaskd("image", allow_missing_keys=True)({"label": 1}) == {"label": 1}


@pytest.mark.parametrize("form", [ApplyMaskd, BrainMaskd, CropToMaskd], ids=lambda form: form.__name__)
def test_missing_keys_are_passed_over_where_allowed(form):
    assert "allow_missing_keys" in inspect.signature(form).parameters
    item = {"label": 1, "mask": torch.ones(2, 2, 2, dtype=torch.bool)}
    assert form("image", allow_missing_keys=True)(item) == item
    with pytest.raises(KeyError):
        form("image")(item)
