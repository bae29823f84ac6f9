import pickle

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose

from nstorm.data import time_axis, time_first, time_last
from nstorm.data.transforms import TimeToFirst, TimeToFirstd, TimeToLast, TimeToLastd

AFFINE = torch.diag(torch.tensor([-3.0, 3.0, 4.0, 1.0], dtype=torch.float64))


def make(shape):
    return MetaTensor(torch.arange(float(torch.Size(shape).numel())).view(shape), affine=AFFINE, meta={"tr": 0.8})


def test_rank_tells_where_time_is():
    run = make((5, 2, 3, 4))
    clip = time_last(run)
    assert (time_axis(run), time_axis(clip)) == (0, 4)
    assert clip.shape == (1, 2, 3, 4, 5)
    assert torch.equal(time_first(clip), run)
    assert time_first(run) is run
    assert time_last(clip) is clip
    assert clip.meta["tr"] == time_first(clip).meta["tr"] == 0.8
    assert torch.equal(clip.affine, AFFINE)


@pytest.mark.parametrize("view", [time_axis, time_first, time_last])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1, 3, 4, 5, 6)])
def test_other_ranks(view, shape):
    with pytest.raises(ValueError, match=r"bold has shape \(.*\), but a run or a clip is \(T, H, W, D\)"):
        view(torch.zeros(shape))


def test_channels_are_not_given_up_for_time():
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 5, 6\) with 2 channels"):
        time_first(torch.zeros(2, 3, 4, 5, 6))


@pytest.mark.parametrize("shape", [(5, 2, 3, 4), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("transform", [TimeToLast(), TimeToFirst()], ids=lambda transform: type(transform).__name__)
def test_there_and_back(transform, shape):
    img = make(shape)
    moved = transform(img)
    assert moved.is_contiguous()
    assert time_axis(moved) == (4 if isinstance(transform, TimeToLast) else 0)
    assert torch.equal(time_first(moved), time_first(img))
    assert img.applied_operations == []
    moved.affine[0, 3] = 1e3
    assert torch.equal(img.affine, AFFINE)
    back = transform.inverse(moved)
    assert back.shape == img.shape
    assert torch.equal(back, img)
    assert back.applied_operations == []


def test_tensors_without_a_trace():
    img = torch.randn(5, 2, 3, 4)
    assert torch.equal(TimeToLast().inverse(TimeToLast()(img)), img)
    clip = img.movedim(0, -1)[None]
    assert torch.equal(TimeToFirst().inverse(TimeToFirst()(clip)), clip)


def test_dictionary_forms_compose_and_invert():
    item = {"image": make((5, 2, 3, 4)), "mask": make((1, 2, 3, 4)), "label": 1}
    compose = pickle.loads(pickle.dumps(Compose([TimeToLastd(("image", "mask")), TimeToFirstd("image")])))
    out = compose(item)
    assert out["image"].shape == (5, 2, 3, 4)
    assert out["mask"].shape == (1, 2, 3, 4, 1)
    back = compose.inverse(out)
    assert torch.equal(back["mask"], item["mask"])
    assert item["image"].shape == (5, 2, 3, 4)
