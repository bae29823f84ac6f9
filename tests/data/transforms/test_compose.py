import pickle
from pathlib import Path

import monai.transforms as mt
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, ThreadDataLoader
from monai.data.meta_tensor import MetaTensor
from monai.utils import set_determinism

from nstorm.data import time_last
from nstorm.data.transforms import TimeToFirstd, TimeToLast, TimeToLastd
from nstorm.data.transforms.compose import Compose
from nstorm.data.transforms.layout_guard import _SIZES, _VALUE_BY_VALUE, refuse_wrong_layout
from nstorm.data.transforms.spatial import Reorientd

SHAPE = (1, 6, 5, 4, 7)
AFFINE = torch.tensor([[2.0, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]], dtype=torch.float64)


def clip(values=None):
    values = torch.randperm(840, generator=torch.Generator().manual_seed(0)).float() + 1 if values is None else values
    return MetaTensor(values.view(SHAPE).clone(), affine=AFFINE, meta={"tr": 2.0})


def run(frames=7):
    return MetaTensor(torch.rand(frames, 6, 5, 4), affine=AFFINE, meta={"tr": 2.0})


# Arguments with which each of the allowed transforms is tried.
INTENSITY = {
    "AdjustContrast": {"gamma": 2.0},
    "ClipIntensityPercentiles": {"lower": 1, "upper": 99},
    "HistogramNormalize": {},
    "NormalizeIntensity": {"channel_wise": True, "nonzero": True},
    "RandAdjustContrast": {"prob": 1},
    "RandGaussianNoise": {"prob": 1},
    "RandHistogramShift": {"prob": 1},
    "RandRicianNoise": {"prob": 1},
    "RandScaleIntensity": {"factors": 0.3, "prob": 1},
    "RandScaleIntensityFixedMean": {"factors": 0.3, "prob": 1},
    "RandShiftIntensity": {"offsets": 5, "prob": 1},
    "RandStdShiftIntensity": {"factors": 2.0, "prob": 1},
    "ScaleIntensity": {"channel_wise": True},
    "ScaleIntensityFixedMean": {"factor": 0.5},
    "ScaleIntensityRange": {"a_min": 0, "a_max": 800, "b_min": 0, "b_max": 1},
    "ScaleIntensityRangePercentiles": {"lower": 1, "upper": 99, "b_min": 0, "b_max": 1},
    "ShiftIntensity": {"offset": 3.0},
    "StdShiftIntensity": {"factor": 2.0},
    "ThresholdIntensity": {"threshold": 100.0},
    "Activations": {"other": lambda values: values / 1000},
    "AsDiscrete": {"rounding": "torchrounding"},
    "CastToType": {"dtype": np.float64},
    "DataStats": {"data_shape": False, "value_range": False},
    "EnsureType": {},
    "Identity": {},
    "IntensityStats": {"ops": ["max"], "key_prefix": "stats"},
    "LabelFilter": {"applied_labels": list(range(841))},
    "LabelToMask": {"select_labels": list(range(420))},
    "Lambda": {"func": lambda image: image + 1},
    "MapLabelValue": {"orig_labels": [5], "target_labels": [0]},
    "RandIdentity": {},
    "RandLambda": {"func": lambda image: image + 1},
    "RepeatChannel": {"repeats": 1},
    "SimulateDelay": {"delay_time": 0.0},
    "ToDevice": {"device": "cpu"},
    "ToNumpy": {},
    "ToTensor": {},
}
# These move images about, or undo what others did.
OF_ITEMS = {f"{name}Items" for name in ("Concat", "Copy", "Delete", "Select")}
OF_ITEMS |= {"FlattenSubKeys", "FromMetaTensor", "Invert", "ToMetaTensor"}
CROPS = {
    "SpatialCrop": {"roi_start": (1, 2, 0, 3), "roi_end": (5, 4, 3, 6)},
    "BorderPad": {"spatial_border": (1, 0, 2, 0)},
    "CenterScaleCrop": {"roi_scale": (0.6, 0.6, 0.6, 1.0)},
    "CenterSpatialCrop": {"roi_size": (4, 3, 4, 5)},
    "DivisiblePad": {"k": (4, 4, 3, 1)},
    "RandScaleCrop": {"roi_scale": (0.6, 0.6, 0.6, 0.6)},
    "RandSpatialCrop": {"roi_size": (-1, -1, -1, 4), "random_size": False},
    "RandSpatialCropSamples": {"roi_size": (3, 4, 2, 4), "num_samples": 2, "random_size": False},
    "ResizeWithPadOrCrop": {"spatial_size": (8, 4, 4, 5)},
    "SpatialPad": {"spatial_size": (8, 8, 5, 7)},
}


def seeded(name, arguments):
    transform = getattr(mt, name)(**arguments)
    if isinstance(transform, mt.Randomizable):
        transform.set_random_state(3)
    return transform


def test_every_transform_that_is_allowed_is_tried():
    assert set(INTENSITY) | OF_ITEMS | {"SpatialCrop"} == _VALUE_BY_VALUE
    assert set(CROPS) - {"SpatialCrop"} | {"RandCoarseDropout"} == set(_SIZES)


@pytest.mark.parametrize("name", INTENSITY)
def test_allowed_transforms_treat_every_value_by_itself(name):
    """Two values that change places change nothing elsewhere: neither in another voxel, nor in another frame."""
    one, other = (0, 1, 2, 3, 2), (0, 4, 1, 0, 5)
    values = clip().as_tensor()
    swapped = values.clone()
    # one below and one above every threshold above
    values[one], values[other] = 50.0, 700.0
    swapped[one], swapped[other] = 700.0, 50.0
    results = []
    for image in (values, swapped):
        transform = seeded(name, INTENSITY[name])
        image = clip(image)
        refuse_wrong_layout(transform, image)
        result = transform(image)
        result = result[0] if isinstance(result, tuple) else result
        results.append(torch.as_tensor(np.asarray(result)).double().reshape(SHAPE))
    changed = (results[0] - results[1]).abs() > 1e-4 * results[0].abs().max()
    expected = torch.zeros(SHAPE, dtype=torch.bool)
    expected[one] = expected[other] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("name", CROPS)
def test_crops_and_pads_only_shift(name):
    """Voxels and frames stay neighbours, and the affine says where they are."""
    image = clip(torch.arange(1.0, 841.0))
    transform = seeded(name, CROPS[name])
    refuse_wrong_layout(transform, image)
    result = transform(image)
    result = result[0] if isinstance(result, list) else result
    kept = result.as_tensor() > 0
    assert kept.sum() > 10
    here = kept.nonzero()[:, 1:]
    there = torch.stack(torch.unravel_index(result.as_tensor()[kept].long() - 1, SHAPE), dim=1)[:, 1:]
    shift = there - here
    assert (shift == shift[0]).all()
    expected = AFFINE[:3, 3] + AFFINE[:3, :3] @ shift[0, :3].double()
    torch.testing.assert_close(result.affine[:3, 3], expected)
    assert result.affine.shape == (4, 4)


def test_coarse_dropout_drops_a_box_of_space_and_time():
    drop = mt.RandCoarseDropout(holes=1, spatial_size=(2, 3, 2, 4), fill_value=0, prob=1).set_random_state(0)
    result = drop(clip())
    refuse_wrong_layout(drop, clip())
    assert torch.equal(result[result != 0], clip()[result != 0])
    dropped = (result == 0).nonzero()
    assert (dropped.amax(0) - dropped.amin(0) + 1).tolist() == [1, 2, 3, 2, 4]


@pytest.mark.parametrize("axis", [0, 1, 2, (0, 2)])
@pytest.mark.parametrize("flip", [mt.Flip, mt.RandFlip], ids=["Flip", "RandFlip"])
def test_flips_of_space(flip, axis):
    transform = flip(spatial_axis=axis) if flip is mt.Flip else flip(1.0, axis)
    refuse_wrong_layout(transform, clip())
    axes = [a + 1 for a in (axis if isinstance(axis, tuple) else (axis,))]
    assert torch.equal(transform(clip()).as_tensor(), clip().as_tensor().flip(axes))


@pytest.mark.parametrize(
    "transform",
    [mt.Flipd("image"), mt.RandFlipd("image", 1), mt.RandFlipd("image", 1, 3), mt.Flipd("image", (0, -1))],
    ids=["Flip", "RandFlip", "axis-3", "axis-last"],
)
def test_flips_that_turn_time_around(transform):
    with pytest.raises(ValueError, match=r"Flipd .* with spatial_axis=.* would flip time too: pass axes among 0, 1"):
        Compose([transform])({"image": clip()})


@pytest.mark.parametrize(
    "transform",
    [mt.SpatialPad(8), mt.ResizeWithPadOrCrop(8), mt.DivisiblePad(4), mt.BorderPad(1), mt.CenterSpatialCrop((4, 4, 4))],
    ids=lambda transform: type(transform).__name__,
)
def test_sizes_that_do_not_say_what_becomes_of_time(transform):
    with pytest.raises(ValueError, match=r"would take time for a fourth axis of space: give four numbers"):
        Compose([transform])(clip())


REFUSED = [
    mt.Spacing((2, 2, 2)),
    mt.MaskIntensity(torch.ones(1, 6, 5, 4)),
    mt.SpatialResample(),
    mt.Resize((8, 8, 8)),
    mt.Orientation("RAS", labels=None),
    mt.RandAffine(prob=1),
    mt.RandRotate90(prob=1),
    mt.RandAxisFlip(prob=1),
    mt.RandGibbsNoise(prob=1),
    mt.RandKSpaceSpikeNoise(prob=1),
    mt.MedianSmooth(),
    mt.GaussianSmooth(),
    mt.RandCoarseShuffle(1, 2, prob=1),
    mt.CropForeground(),
    mt.Rand3DElastic((1, 2), (1, 2), prob=1),
]


@pytest.mark.parametrize("transform", REFUSED, ids=lambda transform: type(transform).__name__)
def test_everything_else_of_monais_is_refused_where_time_is_last(transform):
    with pytest.raises(ValueError, match=r"shape \(1, 6, 5, 4, 7\).* put it before TimeToLastd.* TimeAsChannel"):
        Compose([transform])(clip())
    # and is left alone before
    refuse_wrong_layout(transform, run())


@pytest.mark.parametrize(
    "transform",
    [mt.RandGibbsNoised("image", prob=1), mt.Spacingd("image", (4, 4, 4)), mt.SaveImaged("image")],
    ids=lambda transform: type(transform).__name__,
)
def test_dictionary_forms(transform):
    item = {"image": clip(), "mask": run(1)}
    with pytest.raises(ValueError, match=f"{type(transform).__name__} on an image of shape"):
        Compose([transform])(item)
    transform.keys = ("mask",)
    refuse_wrong_layout(transform, item)


def test_what_spacing_would_do():
    """The reason for all this: frames that are constant in space are so no more."""
    frames = torch.arange(7.0).expand(SHAPE).contiguous()
    mixed = mt.Spacing((4, 4, 4))(clip(frames))
    assert mixed[0, :, :, :, 3].std() > 0.5


@pytest.mark.parametrize(
    "nest",
    [
        lambda t: mt.OneOf([t, mt.Identityd("image")]),
        lambda t: mt.SomeOf([t, mt.Identityd("image")], num_transforms=1),
        lambda t: mt.RandomOrder([t, mt.Identityd("image")]),
        lambda t: mt.OneOf([mt.SomeOf([t]), mt.Identityd("image")]),
    ],
    ids=["OneOf", "SomeOf", "RandomOrder", "OneOf-SomeOf"],
)
def test_a_choice_is_refused_if_one_of_its_transforms_is_wrong(nest):
    with pytest.raises(ValueError, match="RandGibbsNoised on an image"):
        Compose([TimeToLastd("image"), nest(mt.RandGibbsNoised("image", prob=1))])({"image": run()})


@pytest.mark.parametrize("outer", [mt.Compose, Compose, mt.OneOf, mt.RandomOrder], ids=lambda outer: outer.__name__)
def test_composes_inside(outer):
    wrong = mt.Compose([TimeToLastd("image"), mt.RandGibbsNoised("image", prob=1)])
    right = mt.Compose([mt.RandGibbsNoised("image", prob=1), TimeToLastd("image")])
    back = mt.Compose([TimeToFirstd("image"), mt.RandGibbsNoised("image", prob=1), TimeToLastd("image")])
    with pytest.raises(RuntimeError) as error:
        Compose([outer([wrong])])({"image": run()})
    causes = [error.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert isinstance(causes[-1], ValueError)
    assert "RandGibbsNoised on an image of shape (1, 6, 5, 4, 7)" in str(causes[-1])
    assert Compose([outer([right]), outer([back])])({"image": run()})["image"].shape == SHAPE


@pytest.mark.parametrize("name", ["NormalizeIntensity", "ScaleIntensity", "ScaleIntensityRangePercentiles"])
def test_frames_are_not_standardised_one_by_one(name):
    arguments = INTENSITY[name] | {"channel_wise": True}
    for transform, data in (
        (getattr(mt, name)(**arguments), run()),
        (getattr(mt, name + "d")("image", **arguments), {"image": run()}),
    ):
        with pytest.raises(ValueError, match=rf"{name}d? with channel_wise=True on a run of shape \(7, 6, 5, 4\)"):
            Compose([transform])(data)
        # one frame, channels that are no frames, all frames together
        refuse_wrong_layout(transform, {"image": run(1)} if isinstance(data, dict) else run(1))
        refuse_wrong_layout(
            transform, {"image": torch.rand(2, 6, 5, 4)} if isinstance(data, dict) else torch.rand(2, 6, 5, 4)
        )
        refuse_wrong_layout(transform, {"image": clip()} if isinstance(data, dict) else clip())
    refuse_wrong_layout(getattr(mt, name)(**arguments | {"channel_wise": False}), run())


def pipeline(compose, lazy=False):
    return compose(
        [
            Reorientd("image", "LAS"),
            mt.Spacingd("image", (3.0, 3.0, 3.0)),
            mt.RandAffined("image", prob=1, rotate_range=0.3, padding_mode="border"),
            mt.Compose([mt.RandFlipd("image", 0.5, 0), mt.OneOf([mt.Identityd("image"), mt.RandZoomd("image", 1)])]),
            TimeToLastd("image"),
            mt.RandGaussianNoised("image", prob=1),
        ],
        lazy=lazy,
    )


@pytest.mark.parametrize("lazy", [False, True, None])
def test_gives_what_monais_compose_gives(lazy):
    results = [
        pipeline(kind, lazy).set_random_state(5)({"image": run_of_seed(1)})["image"] for kind in (mt.Compose, Compose)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0].affine, results[1].affine)
    names = [[operation["class"] for operation in result.applied_operations] for result in results]
    assert names[0] == names[1]


def run_of_seed(seed):
    values = torch.rand(7, 6, 5, 4, generator=torch.Generator().manual_seed(seed))
    return MetaTensor(values, affine=AFFINE, meta={"tr": 2.0})


def test_lazy_resampling_is_still_done_once(monkeypatch):
    import monai.transforms.lazy.functional as lazy_functional

    calls = []
    resample = lazy_functional.resample
    monkeypatch.setattr(
        lazy_functional, "resample", lambda *args, **kwargs: calls.append(1) or resample(*args, **kwargs)
    )
    compose = Compose([mt.Spacingd("image", (3.0, 3.0, 3.0)), mt.Zoomd("image", 1.2), TimeToLastd("image")], lazy=True)
    assert compose({"image": run()})["image"].ndim == 5
    assert len(calls) == 1


def test_inverse():
    item = {"image": run_of_seed(0)}
    compose = Compose([mt.Compose([Reorientd("image", "SPL"), mt.OneOf([mt.Flipd("image", 0)])]), TimeToLastd("image")])
    out = compose(item)
    back = compose.inverse(out)["image"]
    torch.testing.assert_close(back, item["image"])
    assert back.applied_operations == []


def test_random_state_pickling_and_parts():
    first = pipeline(Compose).set_random_state(9)
    second = pickle.loads(pickle.dumps(pipeline(Compose))).set_random_state(9)
    item = {"image": run_of_seed(0)}
    assert torch.equal(first(item)["image"], second(item)["image"])
    compose = Compose([TimeToLast(), mt.ScaleIntensity(), mt.ShiftIntensity(2)])
    assert torch.equal(compose(compose(item["image"], end=1), start=1), compose(item["image"]))
    assert torch.equal(compose(item["image"], start=0, end=0), item["image"])
    assert Compose()(item) == item
    assert Compose(mt.Identityd("image"))(item)["image"] is item["image"]


def test_lists_of_items():
    crops = mt.RandSpatialCropSamplesd("image", (3, 3, 3), 3, random_size=False)
    out = Compose([crops, TimeToLastd("image")])({"image": run()})
    assert [part["image"].shape for part in out] == [(1, 3, 3, 3, 7)] * 3
    with pytest.raises(ValueError, match="RandGibbsNoised"):
        Compose([crops, TimeToLastd("image"), mt.RandGibbsNoised("image", prob=1)])({"image": run()})


class Counted(mt.Transform):
    calls = 0

    def __call__(self, data):
        Counted.calls += 1
        return data


def test_datasets_and_loaders():
    items = [{"image": run_of_seed(seed)} for seed in range(4)]
    transforms = [TimeToLastd("image"), Counted(), mt.RandGaussianNoised("image", prob=1)]
    plain = Dataset(items, Compose(transforms))
    Counted.calls = 0
    cached = CacheDataset(items, Compose(transforms), progress=False, num_workers=2)
    assert Counted.calls == 4
    epochs = [[item["image"] for item in cached] for _ in range(2)]
    assert Counted.calls == 4
    # what is random is drawn anew
    assert not torch.equal(epochs[0][0], epochs[1][0])
    for loader in (DataLoader(plain, batch_size=2), ThreadDataLoader(cached, batch_size=2, num_workers=0)):
        assert [batch["image"].shape for batch in loader] == [(2, *SHAPE)] * 2
    with pytest.raises(ValueError, match="RandGibbsNoised on an image"):
        Dataset(items, Compose([TimeToLastd("image"), mt.RandGibbsNoised("image", prob=1)]))[0]


def test_worker_processes_follow_the_seed():
    items = [{"image": run_of_seed(seed)} for seed in range(4)]
    epochs = []
    for _ in range(2):
        set_determinism(3)
        try:
            loader = DataLoader(Dataset(items, pipeline(Compose)), batch_size=2, num_workers=1)
            epochs.append(torch.cat([batch["image"].as_tensor() for batch in loader]))
        finally:
            set_determinism(None)
    assert torch.equal(epochs[0], epochs[1])


def test_numpy_arrays_paths_and_other_callables():
    with pytest.raises(ValueError, match="GibbsNoise on an image"):
        Compose([mt.GibbsNoise()])(clip().numpy())
    image = time_last(run())
    assert Compose([lambda x: x, torch.nn.Identity(), np.asarray])(image).shape == image.shape
    with pytest.raises(RuntimeError, match="applying transform"):
        Compose([mt.LoadImage()])(Path("missing.nii.gz"))


def test_to_undo_does_not_seed_anew():
    def drawn(undo: bool) -> list[torch.Tensor]:
        inner = Compose([mt.RandFlipd("image", prob=0.5, spatial_axis=0)])
        compose = Compose([inner, mt.RandFlipd("image", prob=0.5, spatial_axis=1)]).set_random_state(3)
        results = []
        for _ in range(8):
            there = compose({"image": run()})
            results.append(there["image"].affine)
            if undo:
                compose.inverse(there)
        return results

    for undone, not_undone in zip(drawn(True), drawn(False), strict=True):
        assert torch.equal(undone, not_undone)
