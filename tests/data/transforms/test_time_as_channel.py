import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import (
    Compose,
    GaussianSmooth,
    NormalizeIntensity,
    OneOf,
    Rand3DElastic,
    RandAffine,
    RandAffined,
    RandBiasField,
    RandFlip,
    RandFlipd,
    RandGaussianSmooth,
    RandGibbsNoise,
    RandTorchIO,
    RandTorchIOd,
)

from nstorm.data import time_first, time_last
from nstorm.data.transforms.time_as_channel import TimeAsChannel, TimeAsChanneld

MONAI = {
    "RandAffine": lambda: RandAffine(prob=1.0, rotate_range=(0.3, 0.3, 0.3), padding_mode="border"),
    "Rand3DElastic": lambda: Rand3DElastic((2.0, 3.0), (50.0, 80.0), prob=1.0),
    "RandBiasField": lambda: RandBiasField(prob=1.0),
    "RandGaussianSmooth": lambda: RandGaussianSmooth(prob=1.0),
    "RandGibbsNoise": lambda: RandGibbsNoise(prob=1.0, alpha=(0.5, 0.8)),
    "RandFlip": lambda: RandFlip(prob=0.5, spatial_axis=0),
}
TORCHIO = {
    "RandomMotion": lambda: RandTorchIO("RandomMotion"),
    "RandomBiasField": lambda: RandTorchIO("RandomBiasField"),
}
ALL = {**MONAI, **TORCHIO}


@pytest.fixture(autouse=True)
def _torchio_is_there(request):
    if "TorchIO" in request.node.name or "torchio" in request.node.name or "Random" in request.node.name:
        pytest.importorskip("torchio")


def affine():
    return torch.diag(torch.tensor([-2.0, 2.0, 3.0, 1.0]).double())


def make_clip(still=False):
    values = torch.rand(1, 13, 12, 11, 5)
    if still:
        values = values[..., :1].expand(values.shape).clone()
    return MetaTensor(values, affine=affine(), meta={"tr": 0.8, "filename_or_obj": "run.nii"})


@pytest.mark.parametrize("name", ALL)
def test_all_frames_alike_and_input_unchanged(name):
    clip = make_clip(still=True)
    values = clip.as_tensor().clone()
    transform = TimeAsChannel(ALL[name]()).set_random_state(4)
    results = [transform(clip) for _ in range(8)]
    assert any(not torch.equal(result.as_tensor(), values) for result in results)
    for result in results:
        assert result.shape == clip.shape
        assert result.is_contiguous()
        frames = result.as_tensor()
        torch.testing.assert_close(frames, frames[..., :1].expand(frames.shape), rtol=1e-5, atol=1e-5)
        assert (result.meta["tr"], result.meta["filename_or_obj"]) == (0.8, "run.nii")
    assert torch.equal(clip.as_tensor(), values)
    assert torch.equal(clip.affine, affine())
    assert not clip.applied_operations


@pytest.mark.parametrize("name", MONAI)
def test_equals_monai_on_time_first(name):
    clip = make_clip()
    ours = TimeAsChannel(MONAI[name]()).set_random_state(state=np.random.RandomState(2))
    theirs = MONAI[name]().set_random_state(state=np.random.RandomState(2))
    for _ in range(3):
        found, expected = ours(clip), theirs(time_first(clip))
        # Fourier transforms round differently where memory is aligned differently
        torch.testing.assert_close(found.as_tensor(), time_last(expected.as_tensor()), rtol=1e-5, atol=1e-5)
        assert torch.equal(found.affine, expected.affine)


@pytest.mark.parametrize("name", ALL)
def test_seeds_and_the_global_generator(name):
    clip = make_clip()
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first, second = (TimeAsChannel(ALL[name]()).set_random_state(9) for _ in range(2))
    results = [first(clip) for _ in range(4)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    for result in results:
        assert torch.equal(second(clip), result)
    assert any(not torch.equal(result, results[0]) for result in results[1:])


def test_time_first_stays_time_first():
    clip = make_clip()
    run = time_first(clip).contiguous()
    found = [TimeAsChannel(MONAI["RandAffine"]()).set_random_state(0)(x) for x in (run, clip)]
    assert found[0].shape == run.shape
    assert torch.equal(time_last(found[0]).as_tensor(), found[1].as_tensor())


def test_plain_tensors_and_callables():
    clip = make_clip().as_tensor()
    doubled = TimeAsChannel(lambda frames: frames.mul_(2))(clip)
    assert type(doubled) is torch.Tensor
    assert torch.equal(doubled, clip * 2)


def test_torchio_transform_of_a_plain_tensor():
    clip = make_clip().as_tensor()
    assert type(TimeAsChannel(RandTorchIO("RandomBiasField"))(clip)) is torch.Tensor


@pytest.mark.parametrize("wrapped", [True, False], ids=["through MONAI", "directly"])
def test_torchio_knows_millimetres(wrapped):
    torchio = pytest.importorskip("torchio")
    clip = make_clip()
    # 4 mm along x are two voxels
    shift = {"scales": (1, 1), "degrees": (0, 0), "translation": (4, 4, 0, 0, 0, 0), "default_pad_value": 0}
    transform = RandTorchIO("RandomAffine", **shift) if wrapped else torchio.RandomAffine(**shift)
    moved = TimeAsChannel(transform)(clip)
    torch.testing.assert_close(moved.affine, clip.affine)
    # x falls along the first axis
    torch.testing.assert_close(moved.as_tensor()[:, :-2], clip.as_tensor()[:, 2:], rtol=0, atol=1e-3)


def test_deterministic_transforms():
    clip = make_clip()
    expected = time_last(GaussianSmooth(1.0)(time_first(clip).contiguous()))
    assert torch.equal(TimeAsChannel(GaussianSmooth(1.0))(clip).as_tensor(), expected.as_tensor())
    assert TimeAsChannel(NormalizeIntensity())(clip).mean().abs() < 1e-5


def item():
    clip = make_clip()
    return {"image": clip, "mask": MetaTensor(clip.as_tensor()[..., 0] > 0.5, affine=affine()), "label": 2}


def test_dictionary_form_moves_masks_along():
    given = item()
    flip = RandFlipd(["image", "mask"], prob=1.0, spatial_axis=0)
    flipped = TimeAsChanneld("image", flip)(given)
    assert torch.equal(flipped["image"].as_tensor(), given["image"].as_tensor().flip(1))
    assert torch.equal(flipped["mask"].as_tensor(), given["mask"].as_tensor().flip(1))
    assert flipped["label"] == 2
    torch.testing.assert_close(flipped["image"].affine, flipped["mask"].affine)
    assert torch.equal(given["image"].affine, affine())


def test_dictionary_form_seeds_a_compose():
    inside = [RandAffined("image", prob=0.5, rotate_range=0.4), RandFlipd("image", prob=0.5, spatial_axis=0)]
    first, second = (TimeAsChanneld("image", Compose(inside)).set_random_state(1) for _ in range(2))
    results = [first(item())["image"].shape for _ in range(2)]
    assert results == [(1, 13, 12, 11, 5)] * 2
    given = item()
    runs = []
    for transform in (first, second):
        transform.set_random_state(1)
        runs.append([transform(given)["image"] for _ in range(4)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_torchio_resamples_the_grid():
    torchio = pytest.importorskip("torchio")
    resampled = TimeAsChannel(torchio.Resample(4))(make_clip())
    assert resampled.shape == (1, 6, 6, 8, 5)
    assert resampled.affine.diagonal().tolist() == [-4.0, 4.0, 4.0, 1.0]
    assert resampled.meta["tr"] == 0.8


@pytest.mark.parametrize("kind", [Compose, OneOf])
def test_torchio_inside_a_compose_would_not_know_the_affine(kind):
    inside = Compose([RandFlip(prob=0.5, spatial_axis=0), kind([RandTorchIO("RandomMotion")])])
    with pytest.raises(ValueError, match="holds RandTorchIO, which would not get the affine there: put it into a"):
        TimeAsChannel(inside)
    with pytest.raises(ValueError, match="holds RandTorchIOd, which would not get the affine there"):
        TimeAsChanneld("image", kind([RandTorchIOd("image", "RandomMotion")]))


@pytest.mark.parametrize("wrapped", [True, False], ids=["through MONAI", "directly"])
def test_torchio_dictionary_form(wrapped):
    torchio = pytest.importorskip("torchio")
    given = item()
    inner = RandTorchIOd(["image", "mask"], "RandomAffine") if wrapped else torchio.RandomAffine()
    transform = TimeAsChanneld(["image", "mask"], inner)
    moved = transform.set_random_state(3)(given)
    assert torch.equal(transform.set_random_state(3)(given)["image"], moved["image"])
    assert moved["mask"].dtype == torch.bool
    assert moved["label"] == 2
    assert moved["image"].meta["tr"] == 0.8
    values = moved["image"].as_tensor()
    bright = values[..., 0] > 0.5
    assert not torch.equal(values, given["image"].as_tensor())
    assert (bright == moved["mask"].as_tensor()).float().mean() > 0.7


def test_inverse():
    given = item()
    forward = Compose(
        [
            TimeAsChanneld(["image", "mask"], RandFlipd(["image", "mask"], prob=1.0, spatial_axis=0)),
            TimeAsChanneld(
                "image", RandAffined("image", prob=1.0, translate_range=((2, 2), 0, 0), padding_mode="zeros")
            ),
        ]
    ).set_random_state(0)
    there = forward(given)
    back = forward.inverse(there)
    assert not torch.equal(there["image"].as_tensor(), given["image"].as_tensor())
    inside = (slice(None), slice(2, -2))
    torch.testing.assert_close(back["image"].as_tensor()[inside], given["image"].as_tensor()[inside], rtol=0, atol=1e-4)
    torch.testing.assert_close(back["image"].affine, given["image"].affine)
    assert torch.equal(back["mask"], given["mask"])
    array = TimeAsChannel(RandFlip(prob=1.0, spatial_axis=1))
    assert torch.equal(array.inverse(array(given["image"])), given["image"])


def test_missing_key():
    with pytest.raises(KeyError):
        TimeAsChanneld("image", MONAI["RandFlip"]())({})
    flip = RandFlipd("image", prob=1.0, spatial_axis=0, allow_missing_keys=True)
    assert TimeAsChanneld("image", flip, allow_missing_keys=True)({"label": 1}) == {"label": 1}
