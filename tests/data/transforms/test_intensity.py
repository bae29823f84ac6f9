import pickle

import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data.normalize import percent_signal_change, zscore_global, zscore_voxels
from nstorm.data.transforms.intensity import (
    GlobalZScore,
    GlobalZScored,
    PercentSignalChange,
    PercentSignalChanged,
    ZScoreVoxels,
    ZScoreVoxelsd,
)

FORMS = [
    (ZScoreVoxels, ZScoreVoxelsd, zscore_voxels, {"robust": True}),
    (GlobalZScore, GlobalZScored, zscore_global, {"robust": True, "outside": "min"}),
    (PercentSignalChange, PercentSignalChanged, percent_signal_change, {"robust": True}),
]


@pytest.fixture
def item():
    generator = torch.Generator().manual_seed(0)
    bold = MetaTensor(1000 + 50 * torch.randn(1, 4, 5, 3, 9, generator=generator), meta={"tr": 2.0})
    mask = MetaTensor(torch.rand(1, 4, 5, 3, generator=generator) > 0.5)
    return {"image": bold, "other": bold * 2, "mask": mask, "label": 3}


@pytest.mark.parametrize("given_options", [False, True], ids=["default", "options"])
@pytest.mark.parametrize(
    ("array", "dictionary", "function", "options"), FORMS, ids=lambda form: getattr(form, "__name__", "")
)
def test_forms_agree_with_the_function(item, array, dictionary, function, options, given_options):
    options = options if given_options else {}
    transform = pickle.loads(pickle.dumps(dictionary(["image", "other"], mask_key="mask", **options)))
    before = {key: item[key].clone() for key in ("image", "mask")}
    result = transform(item)
    for key in ("image", "other"):
        expected = function(item[key], item["mask"], **options)
        assert torch.equal(result[key], expected)
        assert torch.equal(array(**options)(item[key], item["mask"]), expected)
    assert result["image"].meta["tr"] == 2.0
    assert result["label"] == 3
    assert torch.equal(item["image"], before["image"])
    assert torch.equal(result["mask"], before["mask"])
    assert torch.equal(dictionary("image", **options)(item)["image"], function(item["image"], **options))


@pytest.mark.parametrize("dictionary", [form[1] for form in FORMS])
def test_missing_mask(item, dictionary):
    with pytest.raises(KeyError, match="mask_key is 'brain', but the item has only the keys"):
        dictionary("image", mask_key="brain")(item)
