import pickle

import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data.published import prepare_published
from nstorm.data.transforms.published import PublishedPreprocessing, PublishedPreprocessingd


@pytest.fixture
def bold():
    values = 1000 + 50 * torch.randn(4, 9, 7, 8, generator=torch.Generator().manual_seed(0))
    affine = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0], dtype=torch.float64))
    return MetaTensor(values, affine=affine, meta={"tr": 1.6})


@pytest.mark.parametrize("last", [False, True], ids=["time first", "time last"])
def test_result_is_what_the_published_net_takes(bold, last):
    prepared = PublishedPreprocessing()(bold.movedim(0, -1)[None] if last else bold)
    assert prepared.shape == (1, 96, 96, 96, 8)
    assert prepared.is_contiguous()
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared[0].movedim(-1, 0), prepare_published(bold, pad_to=96))


def test_dictionary_form(bold):
    mask = bold[:1] > 0
    mask[:, :4] = False
    transform = pickle.loads(pickle.dumps(PublishedPreprocessingd("image", mask_key="mask", pad_to=None, axcodes=None)))
    item = {"image": bold, "mask": mask}
    before = bold.clone()
    prepared = transform(item)["image"]
    assert prepared.shape == (1, 14, 10, 12, 8)
    torch.testing.assert_close(prepared[0].movedim(-1, 0), prepare_published(bold, mask=mask, axcodes=None))
    assert torch.equal(item["image"], before)
