"""One brain, stored in many ways, is prepared to one volume and one clip."""

import gzip
from itertools import permutations, product

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from nibabel.orientations import apply_orientation, inv_ornt_aff

from nstorm.data import load_bold, save_bold, strided_clips
from nstorm.data.space.grid import Grid
from nstorm.data.transforms import (
    Compose,
    CropOrPadd,
    LoadBOLDd,
    Reorientd,
    ResampleSpaced,
    TimeToLastd,
    ZScoreVoxelsd,
)

SHAPE, FRAMES, TR = (11, 13, 9), 14, 0.72
AFFINE = np.array([[3.0, 0, 0, -16], [0, 3.5, 0, -20], [0, 0, 4.0, -15], [0, 0, 0, 1]])
# blobs in mm: place, width, and the frequency of their time course in cycles a frame; nothing is symmetric
BLOBS = [((-8.0, 3.0, 2.0), 6.0, 0.11), ((9.0, -7.0, 5.0), 5.0, 0.23), ((2.0, 12.0, -6.0), 7.0, 0.05)]


def brain(places: np.ndarray) -> np.ndarray:
    """BOLD at places (..., 3) in mm, for every frame, in halves so that integers with a slope hold it exactly."""
    time = np.arange(FRAMES)
    signal = sum(
        np.exp(-((places - place) ** 2).sum(-1) / (2 * width**2))[..., None]
        * (40 + 8 * np.sin(2 * np.pi * rate * time))
        for place, width, rate in BLOBS
    )
    return np.round(2 * (signal + 50)) / 2


def stored(shape=SHAPE, affine=AFFINE):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return brain(apply_affine(affine, grid))


def write(path, voxels, affine, *, dtype="float32", slope=None, unit="sec", image_class=nibabel.Nifti1Image, order="<"):
    header = image_class.header_class(endianness=order)
    header.set_data_dtype(dtype)
    if slope is not None:
        voxels = np.round((voxels - slope[1]) / slope[0])
    image = image_class(voxels.astype(dtype), affine, header)
    image.header["pixdim"][4] = TR * {"sec": 1, "msec": 1e3, "usec": 1e6}[unit]
    image.header.set_xyzt_units("mm", unit)
    if slope is not None:
        image.header["scl_slope"], image.header["scl_inter"] = slope
    raw = image.to_bytes()
    if slope is not None:  # nibabel resets the scaling of data that it takes for scaled
        raw = bytearray(raw)
        at = 112 if image_class is nibabel.Nifti1Image else 176
        raw[at : at + (8 if at == 112 else 16)] = np.array(slope, order + ("f4" if at == 112 else "f8")).tobytes()
        raw = bytes(raw)
    path.write_bytes(gzip.compress(raw, 1) if path.suffix == ".gz" else raw)
    return path


def rearranged(voxels, affine, axes, flips):
    """The same voxels at the same places, their axes permuted and flipped in storage."""
    ornt = np.stack([np.array(axes), np.where(flips, -1, 1)], axis=1).astype(float)
    return apply_orientation(voxels, ornt), affine @ inv_ornt_aff(ornt, voxels.shape[:3])


PREPARE = Compose(
    [
        LoadBOLDd("image"),
        Reorientd("image", "RAS"),
        ResampleSpaced("image", 4.0),
        CropOrPadd("image", (8, 12, 10)),
        TimeToLastd("image"),
        ZScoreVoxelsd("image"),
    ]
)


def prepared(path):
    clips = [PREPARE(item) for item in strided_clips(path, 5, stride=4)]
    return PREPARE({"image": str(path)})["image"], clips[1]["image"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return prepared(write(tmp_path_factory.mktemp("ras") / "bold.nii", stored(), AFFINE))


def assert_same(found, expected):
    for image, reference in zip(found, expected, strict=True):
        assert torch.equal(image.as_tensor(), reference.as_tensor())
        torch.testing.assert_close(image.affine, reference.affine, rtol=0, atol=1e-4)
        assert image.meta["tr"] == reference.meta["tr"] == TR
        assert image.meta["start_time"] == reference.meta["start_time"]


def test_the_reference_is_what_it_should_be(expected):
    run, clip = expected
    assert run.shape == (1, 8, 12, 10, FRAMES)
    assert clip.shape == (1, 8, 12, 10, 5)
    assert clip.meta["start_frame"] == 4
    assert clip.meta["start_time"] == pytest.approx(4 * TR)
    assert run.std() > 0.5


STORAGES = {
    "LAS": {"flips": (1, 0, 0)},
    "PSR": {"axes": (2, 0, 1)},
    "LPI": {"flips": (1, 1, 1)},
    "int16 with slope": {"dtype": "int16", "slope": (0.5, 40.0)},
    "uint8 with slope": {"dtype": "uint8", "slope": (0.5, 45.0)},
    "float64": {"dtype": "float64"},
    "TR in ms": {"unit": "msec"},
    "TR in us": {"unit": "usec"},
    "NIfTI-2": {"image_class": nibabel.Nifti2Image},
    "big-endian": {"order": ">", "dtype": "int16", "slope": (0.5, 0.0)},
    "gzip": {"ending": ".nii.gz"},
}


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_storage_makes_no_difference(tmp_path, storage, expected):
    storage = dict(storage)
    axes, flips = storage.pop("axes", (0, 1, 2)), storage.pop("flips", (0, 0, 0))
    path = tmp_path / f"bold{storage.pop('ending', '.nii')}"
    assert_same(prepared(write(path, *rearranged(stored(), AFFINE, axes, flips), **storage)), expected)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    axes=st.sampled_from(list(permutations(range(3)))),
    flips=st.sampled_from(list(product((0, 1), repeat=3))),
    dtype=st.sampled_from(["int16", "uint16", "int32", "float32", "float64", "int64"]),
    slope=st.sampled_from([(0.5, 0.0), (0.25, -3.0), (0.5, 20.0)]),
    unit=st.sampled_from(["sec", "msec", "usec"]),
    order=st.sampled_from("<>"),
    image_class=st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]),
    ending=st.sampled_from([".nii", ".nii.gz"]),
)
def test_no_storage_makes_a_difference(tmp_path, expected, axes, flips, ending, dtype, slope, **storage):
    path = tmp_path / f"bold{ending}"
    slope = None if dtype.startswith("float") else slope
    write(path, *rearranged(stored(), AFFINE, axes, flips), dtype=dtype, slope=slope, **storage)
    assert_same(prepared(path), expected)


def turned(degrees, about):
    angle, (x, y, z) = np.deg2rad(degrees), np.array(about) / np.linalg.norm(about)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(4)
    turn[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn


def test_oblique_storage_in_any_order_of_axes(tmp_path):
    oblique = turned(17, (1, 2, -1)) @ AFFINE
    reference = prepared(write(tmp_path / "bold.nii", stored(affine=oblique), oblique))
    for axes, flips in [((0, 1, 2), (1, 0, 0)), ((2, 0, 1), (0, 1, 0)), ((1, 0, 2), (1, 1, 1))]:
        path = write(tmp_path / "other.nii", *rearranged(stored(affine=oblique), oblique, axes, flips))
        assert_same(prepared(path), reference)


@pytest.mark.parametrize("degrees", [0, 8, -25])
def test_oblique_grids_agree_on_a_grid_of_space(tmp_path, degrees):
    """A fine grid laid obliquely through the brain gives what the brain is at the places of the target."""
    fine = turned(degrees, (1, -1, 2)) @ np.array([[-1.5, 0, 0, 33], [0, 1.5, 0, -33], [0, 0, 1.5, -33], [0, 0, 0, 1]])
    path = write(tmp_path / "bold.nii", stored((45, 45, 45), fine), fine)
    target = Grid((7, 6, 5), np.array([[4.0, 0, 0, -12], [0, 4.0, 0, -10], [0, 0, 4.0, -8], [0, 0, 0, 1]]))
    prepare = Compose([LoadBOLDd("image"), ResampleSpaced("image", target, antialias=False)])
    found = prepare({"image": str(path)})["image"].numpy()
    error = np.abs(found - np.moveaxis(stored(target.shape, target.affine.numpy()), 3, 0))
    assert error.max() < 1.6  # of 90: the bend of the narrowest blob between voxels
    assert error.mean() < 0.35


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3, st.integers(2, 7)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    tr=st.floats(0.1, 20).map(lambda tr: float(np.float32(tr))),
    seed=st.integers(0, 2**32 - 1),
    time_is_last=st.booleans(),
    ending=st.sampled_from([".nii", ".nii.gz"]),
)
def test_a_round_trip_loses_nothing(tmp_path, shape, dtype, tr, seed, time_is_last, ending):
    random = np.random.default_rng(seed)
    affine = turned(random.uniform(-90, 90), random.normal(size=3)) @ np.diag([*random.uniform(0.7, 5, 3), 1])
    affine[:3, 3] = random.uniform(-100, 100, 3)
    path, again = tmp_path / f"one{ending}", tmp_path / f"two{ending}"
    image = nibabel.Nifti1Image(random.normal(size=shape), affine)
    image.header["pixdim"][4] = tr
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)

    bold = load_bold(path, dtype=dtype)
    save_bold(again, bold.movedim(0, -1)[None] if time_is_last else bold, overwrite=True)
    back = load_bold(again, dtype=dtype)
    assert torch.equal(back.as_tensor(), bold.as_tensor())
    assert torch.equal(back.affine, bold.affine)
    assert back.meta["tr"] == bold.meta["tr"]
    header = nibabel.load(again).header
    assert header.get_xyzt_units() == ("mm", "sec")
    assert header.get_zooms()[3] == np.float32(tr)
