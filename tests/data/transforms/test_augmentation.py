"""What all random 4D transforms share."""

import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose

from nstorm.data import time_last
from nstorm.data.transforms.rand_affine import RandBOLDAffine, RandBOLDAffined
from nstorm.data.transforms.rand_drift import RandDrift, RandDriftd
from nstorm.data.transforms.rand_elastic import RandBOLDElastic, RandBOLDElasticd
from nstorm.data.transforms.rand_flip import RandFlipLR, RandFlipLRd
from nstorm.data.transforms.rand_frames import (
    RandFrameDropout,
    RandFrameDropoutd,
    RandSpikes,
    RandSpikesd,
)
from nstorm.data.transforms.rand_intensity import (
    RandBOLDBiasField,
    RandBOLDBiasFieldd,
    RandBOLDNoise,
    RandBOLDNoised,
    RandBOLDSmooth,
    RandBOLDSmoothd,
)
from nstorm.data.transforms.rand_motion import RandMotion, RandMotiond
from nstorm.data.transforms.rand_temporal import (
    RandTemporalCrop,
    RandTemporalCropd,
    RandTemporalJitter,
    RandTemporalJitterd,
)

FORMS = {
    "affine": (RandBOLDAffine, RandBOLDAffined, {"rotate_range": 0.3, "scale_range": 0.1, "translate_range": 4.0}),
    "flip": (RandFlipLR, RandFlipLRd, {"prob": 1.0}),
    "elastic": (RandBOLDElastic, RandBOLDElasticd, {"magnitude_range": (2.0, 4.0), "spacing": 12.0}),
    "noise": (RandBOLDNoise, RandBOLDNoised, {"std_range": (0.5, 1.0)}),
    "smooth": (RandBOLDSmooth, RandBOLDSmoothd, {"fwhm_range": (4.0, 8.0)}),
    "bias": (RandBOLDBiasField, RandBOLDBiasFieldd, {}),
    "motion": (RandMotion, RandMotiond, {"translate_range": (1.0, 3.0), "max_jerks": 2}),
    "drift": (RandDrift, RandDriftd, {"amplitude_range": (1.0, 2.0)}),
    "local drift": (RandDrift, RandDriftd, {"amplitude_range": (1.0, 2.0), "spacing": 15.0}),
    "spikes": (RandSpikes, RandSpikesd, {}),
    "dropout": (RandFrameDropout, RandFrameDropoutd, {"frame_prob": 0.5}),
    "interpolated dropout": (RandFrameDropout, RandFrameDropoutd, {"frame_prob": 0.5, "fill": "interpolate"}),
    "crop": (RandTemporalCrop, RandTemporalCropd, {"num_frames": 4}),
    "jitter": (RandTemporalJitter, RandTemporalJitterd, {}),
}
SAME_FOR_ALL_FRAMES = ["affine", "flip", "elastic", "smooth", "bias"]
# the flip has nothing to draw, at probability 1
DRAWS = [name for name in FORMS if name != "flip"]


def array_form(name):
    form, _, arguments = FORMS[name]
    return form(**arguments)


def dictionary_form(name, keys="image"):
    _, form, arguments = FORMS[name]
    return form(keys, **arguments)


def oblique_affine(sizes=(2.0, 3.0, 4.0), angle=0.3):
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ np.diag([-sizes[0], sizes[1], sizes[2], 1.0])
    affine[:3, 3] = 20, -30, -10
    return torch.from_numpy(affine)


def make_clip(shape=(1, 9, 8, 7, 11), dtype=torch.float32, seed=0):
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 50 + 100
    meta = {"tr": 0.8, "filename_or_obj": "run.nii", "start_frame": 3, "start_time": 2.4}
    return MetaTensor(values.to(dtype), affine=oblique_affine(), meta=meta)


def frames_first(clip):
    return MetaTensor(clip.as_tensor()[0].movedim(-1, 0).contiguous(), meta=deepcopy(clip.meta))


@pytest.mark.parametrize("name", FORMS)
def test_input_unchanged_and_meta_kept(name):
    clip = make_clip()
    values, meta = clip.as_tensor().clone(), deepcopy(clip.meta)
    result = array_form(name).set_random_state(0)(clip)
    assert isinstance(result, MetaTensor)
    assert result.is_contiguous()
    assert not torch.equal(result.as_tensor()[..., :4], values[..., :4])
    assert (result.meta["tr"], result.meta["filename_or_obj"]) == (0.8, "run.nii")
    result.zero_()
    result.affine[0, 0] = 99.0
    result.meta["tr"] = 99.0
    assert torch.equal(clip.as_tensor(), values)
    assert torch.equal(clip.affine, meta["affine"])
    assert {**clip.meta, "affine": None} == {**meta, "affine": None}


@pytest.mark.parametrize("name", FORMS)
def test_both_layouts(name):
    clip = make_clip()
    last = array_form(name).set_random_state(0)(clip)
    first = array_form(name).set_random_state(0)(frames_first(clip))
    assert first.is_contiguous()
    assert time_last(first).shape == last.shape
    torch.testing.assert_close(first.affine, last.affine)
    if name != "noise":
        torch.testing.assert_close(time_last(first).as_tensor(), last.as_tensor())


@pytest.mark.parametrize("name", DRAWS)
def test_seeds(name):
    clip = make_clip()
    transform = array_form(name).set_random_state(7)
    first, second = transform(clip), transform(clip)
    assert not torch.equal(first, second)
    again = array_form(name).set_random_state(7)
    assert torch.equal(again(clip), first)
    assert torch.equal(pickle.loads(pickle.dumps(again))(clip), second)


@pytest.mark.parametrize("name", [name for name in FORMS if name != "crop"])
def test_probability(name):
    form, _, arguments = FORMS[name]
    clip = make_clip()
    never = form(**{**arguments, "prob": 0.0})
    assert torch.equal(never(clip), clip)
    sometimes = form(**{**arguments, "prob": 0.25}).set_random_state(0)
    applied = sum(not torch.equal(sometimes(clip), clip) for _ in range(40))
    assert 3 <= applied <= 18
    with pytest.raises(ValueError, match=r"prob is 1\.5"):
        form(**{**arguments, "prob": 1.5})


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.float64, torch.float64), (torch.float16, torch.float32), (torch.int16, torch.float32)],
    ids=str,
)
def test_dtypes(name, given, expected):
    result = array_form(name).set_random_state(0)(make_clip(dtype=given))
    # moving or choosing values needs no arithmetic: flips and crops keep the type, and labels are never mixed
    kept = name in ("flip", "crop") or (name in ("affine", "elastic") and not given.is_floating_point)
    assert result.dtype == (given if kept else expected)


@pytest.mark.parametrize("name", SAME_FOR_ALL_FRAMES)
def test_constant_in_time_stays_constant(name):
    still = make_clip()
    still.as_tensor().copy_(still.as_tensor()[..., :1].expand(still.shape).clone())
    result = array_form(name).set_random_state(0)(still).as_tensor()
    assert result.std() > 0
    torch.testing.assert_close(result, result[..., :1].expand(result.shape), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("name", FORMS)
def test_dictionary_form_draws_once(name):
    clip = make_clip()
    item = {"image": clip, "other": make_clip(seed=1), "label": 3}
    result = dictionary_form(name, ["image", "other"]).set_random_state(5)(item)
    array = array_form(name).set_random_state(5)
    assert torch.equal(result["image"], array(clip))
    assert torch.equal(result["other"], array(item["other"], randomize=False))
    assert result["label"] == 3
    assert item["image"] is clip


@pytest.mark.parametrize("name", ["noise", "smooth", "bias"])
def test_mask(name):
    clip = make_clip()
    mask = torch.zeros(1, 9, 8, 7, dtype=torch.bool)
    mask[:, 2:7, 2:6, 1:6] = True
    _, form, arguments = FORMS[name]
    result = form("image", mask_key="mask", **arguments).set_random_state(0)({"image": clip, "mask": mask})["image"]
    outside = ~mask[..., None].expand(clip.shape)
    assert torch.equal(result[outside], clip[outside])
    assert (result[~outside] != clip[~outside]).float().mean() > 0.99
    with pytest.raises(ValueError, match=r"mask has shape \(1, 9, 8, 6\), but a frame of .* has \(9, 8, 7\)"):
        array_form(name)(clip, mask=mask[..., 1:])
    with pytest.raises(ValueError, match=r"mask has dtype torch\.float32"):
        array_form(name)(clip, mask=mask.float())


@pytest.mark.parametrize("name", ["flip", "elastic", "smooth", "motion", "local drift"])
def test_plain_tensor_has_no_mm(name):
    with pytest.raises(ValueError, match=r"the image is a plain tensor.*nstorm\.data\.load_bold"):
        array_form(name)(make_clip().as_tensor())


@pytest.mark.parametrize("name", FORMS)
def test_one_image_without_time_is_refused(name):
    image = MetaTensor(torch.rand(9, 8, 7), affine=torch.eye(4), meta={"tr": 2.0})
    with pytest.raises(ValueError, match=r"bold has shape \(9, 8, 7\), but a run or a clip is"):
        array_form(name)(image)


@pytest.mark.parametrize("name", ["affine", "noise", "bias", "drift", "spikes", "dropout", "crop"])
def test_plain_tensor_where_space_and_time_do_not_matter(name):
    clip = make_clip().as_tensor()
    result = array_form(name).set_random_state(0)(clip)
    assert type(result) is torch.Tensor
    assert not torch.equal(result, clip[..., : result.shape[-1]])


def compose():
    return Compose(
        [
            RandTemporalCropd("image", 6),
            RandBOLDAffined("image", rotate_range=0.2),
            RandMotiond("image", prob=0.5),
            RandBOLDNoised("image", prob=0.5),
        ]
    )


def epochs(num_workers):
    torch.manual_seed(3)
    items = [{"image": make_clip(seed=seed), "subject": f"{seed}"} for seed in range(4)]
    loader = DataLoader(Dataset(items, compose()), batch_size=2, num_workers=num_workers)
    return [torch.cat([batch["image"].as_tensor() for batch in loader]) for _ in range(2)]


def test_loader_with_workers_honours_seeds():
    first, second = epochs(num_workers=2)
    again, _ = epochs(num_workers=2)
    assert first.shape == (4, 1, 9, 8, 7, 6)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_cache_does_not_freeze_draws():
    cached = CacheDataset([{"image": make_clip()}], compose().set_random_state(0), progress=False)
    assert not torch.equal(cached[0]["image"], cached[0]["image"])
