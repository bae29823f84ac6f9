from itertools import permutations, product

import nibabel
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data import load_bold, rest_run, time_last
from nstorm.data.files.masks import load_mask
from nstorm.data.files.reader import BOLDFile

AFFINE = np.array([[-3.0, 0.0, 0.0, 12.0], [0.0, 3.5, 0.0, -10.0], [0.0, 0.0, 4.0, -6.0], [0.0, 0.0, 0.0, 1.0]])


def write(path, values, affine=AFFINE, **kwargs):
    nibabel.save(nibabel.Nifti1Image(values, affine, **kwargs), path)
    return path


@pytest.fixture
def values():
    return np.random.default_rng(0).random((5, 6, 7)) < 0.4


def grid(shape, affine):
    return MetaTensor(torch.zeros(2, *shape), affine=torch.from_numpy(affine))


def by_nearest_voxel(values, affine, shape, onto):
    """The rule, written plainly: every voxel's centre, in the other image's indices, rounded."""
    centres = np.indices(shape).reshape(3, -1).T
    there = np.rint(nibabel.affines.apply_affine(np.linalg.inv(affine) @ onto, centres)).astype(int)
    known = ((there >= 0) & (there < values.shape)).all(axis=1)
    found = np.zeros(len(there), bool)
    found[known] = values[tuple(there[known].T)]
    return found.reshape(shape)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_own_grid(tmp_path, values, dtype, ending):
    mask = load_mask(write(tmp_path / f"mask{ending}", values.astype(dtype)))
    assert mask.dtype == torch.bool
    assert mask.shape == (1, 5, 6, 7)
    assert mask.affine.dtype == torch.float64
    np.testing.assert_array_equal(mask[0], values)
    np.testing.assert_array_equal(mask.affine, AFFINE)


def test_labels_probabilities_and_thresholds(tmp_path):
    ramp = np.linspace(0, 1, 11).reshape(11, 1, 1)
    assert int(load_mask(write(tmp_path / "p.nii", ramp)).sum()) == 5
    assert int(load_mask(tmp_path / "p.nii", threshold=0.25).sum()) == 8
    assert int(load_mask(write(tmp_path / "labels.nii", np.rint(100 * ramp))).sum()) == 10
    with pytest.raises(
        ValueError, match=r"percent\.nii has values from 0\.5 to 50\.5, neither labels .*pass threshold="
    ):
        load_mask(write(tmp_path / "percent.nii", 50 * ramp + 0.5))
    assert int(load_mask(tmp_path / "percent.nii", threshold=20.0).sum()) == 7


def test_probabilities_stored_as_integers_with_a_slope(tmp_path):
    image = nibabel.Nifti1Image(np.linspace(0, 1, 11).reshape(11, 1, 1), AFFINE)
    image.set_data_dtype(np.uint8)
    nibabel.save(image, tmp_path / "p.nii")
    assert int(load_mask(tmp_path / "p.nii").sum()) == 5


def test_one_volume_with_four_axes(tmp_path, values):
    mask = load_mask(write(tmp_path / "mask.nii", values[..., None].astype(np.uint8)))
    np.testing.assert_array_equal(mask[0], values)


@pytest.mark.parametrize("layout", [lambda bold: bold, time_last], ids=["time_first", "time_last"])
def test_same_grid(tmp_path, values, layout):
    path = write(tmp_path / "mask.nii", values.astype(np.uint8))
    moved = AFFINE.copy()
    moved[:3, 3] += 1e-4
    np.testing.assert_array_equal(load_mask(path, layout(grid((5, 6, 7), moved)))[0], values)


@pytest.mark.parametrize("flips", [(-1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_another_storage_of_the_same_grid_keeps_every_voxel(tmp_path, values, flips, order):
    codes = nibabel.orientations.ornt_transform(
        np.array([[axis, 1] for axis in range(3)]), list(zip(order, flips, strict=True))
    )
    stored = nibabel.Nifti1Image(values.astype(np.uint8), AFFINE).as_reoriented(codes)
    nibabel.save(stored, tmp_path / "mask.nii")
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.nii", grid((5, 6, 7), AFFINE))[0], values)


@pytest.mark.parametrize("spacing", [2.5, 4.0, 8.0])
def test_storage_makes_no_difference_where_centres_lie_between_voxels(tmp_path, values, spacing):
    own, onto = np.diag([2.0, 2, 2, 1]), np.diag([spacing, spacing, spacing, 1])
    onto[:3, 3] = 1
    masks = []
    for order in permutations(range(3)):
        for flips in product((1, -1), repeat=3):
            stored = nibabel.Nifti1Image(values.astype(np.uint8), own).as_reoriented(np.column_stack((order, flips)))
            nibabel.save(stored, tmp_path / "mask.nii")
            masks.append(load_mask(tmp_path / "mask.nii", grid((4, 4, 4), onto)))
    assert masks[0].any()
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_oblique_grid(tmp_path, values):
    turned = AFFINE.copy()
    turned[:3, :3] = nibabel.eulerangles.euler2mat(0.3, -0.2, 0.5) @ np.diag([1.7, 2.3, -2.9])
    turned[:3, 3] = [-3, -8, 14]
    mask = load_mask(write(tmp_path / "mask.nii", values.astype(np.uint8)), grid((8, 9, 10), turned))
    expected = by_nearest_voxel(values, AFFINE, (8, 9, 10), turned)
    assert expected.any()
    np.testing.assert_array_equal(mask[0], expected)
    np.testing.assert_array_equal(mask.affine, turned)


def test_outer_halves_of_outer_voxels_belong_to_them(tmp_path):
    fine = AFFINE.copy()
    fine[:3, :3] /= 3
    fine[:3, 3] = nibabel.affines.apply_affine(AFFINE, [-1 / 3] * 3)
    mask = load_mask(write(tmp_path / "mask.nii", np.ones((2, 3, 2), np.uint8)), grid((6, 9, 6), fine))
    assert bool(mask.all())


def test_grid_of_a_file_or_of_a_mask(tmp_path):
    path = write(tmp_path / "mask.nii", np.ones((30, 40, 50), np.uint8), np.diag([2.0, 2, 2, 1]))
    run = rest_run()
    expected = load_mask(path, load_bold(run.bold))
    for like in (run.bold, str(run.bold), BOLDFile(run.bold), run.mask, load_mask(run.mask)):
        mask = load_mask(path, like)
        assert torch.equal(mask, expected)
        assert torch.equal(mask.affine, expected.affine)


def test_no_common_space(tmp_path, values):
    path = write(tmp_path / "mask.nii", values.astype(np.uint8))
    far = AFFINE.copy()
    far[0, 3] += 500
    with pytest.raises(
        ValueError, match=r"mask\.nii has no voxel of its mask within the grid \(5, 6, 7\) of like: the two"
    ):
        load_mask(path, grid((5, 6, 7), far))


@pytest.mark.parametrize("empty", [np.zeros((2, 3, 4), np.uint8), np.full((2, 3, 4), 0.3)])
def test_empty(tmp_path, empty):
    with pytest.raises(ValueError, match=r"mask\.nii is an empty mask: .* none is above 0"):
        load_mask(write(tmp_path / "mask.nii", empty))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(tmp_path, values, value):
    broken = values.astype(np.float32)
    broken[0, 0, 0] = value
    with pytest.raises(ValueError, match=r"mask\.nii has NaN or infinite values"):
        load_mask(write(tmp_path / "mask.nii", broken))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 2)])
def test_other_axes(tmp_path, shape):
    with pytest.raises(ValueError, match=r"mask\.nii has shape \(2, 3.*\), but a mask has three axes"):
        load_mask(write(tmp_path / "mask.nii", np.ones(shape, np.uint8)))


def test_a_file_that_does_not_say_where_it_lies_has_no_grid(tmp_path, values):
    path = write(tmp_path / "mask.nii", values.astype(np.uint8))
    write(tmp_path / "lost.nii", np.zeros((5, 6, 7), np.uint8), None)
    (tmp_path / "text.nii").write_text("no image" * 100)
    for name, message in (("lost", "does not say where its voxels lie"), ("text", "is damaged or no NIfTI image")):
        with pytest.raises(ValueError, match=rf"{name}\.nii {message}"):
            load_mask(path, tmp_path / f"{name}.nii")
    with pytest.raises(ValueError, match=r"text\.nii is damaged or no NIfTI image"):
        load_mask(tmp_path / "text.nii")


def test_grid_without_affine(tmp_path, values):
    with pytest.raises(ValueError, match=r"plain tensor, of which nobody knows where its voxels lie"):
        load_mask(write(tmp_path / "mask.nii", values.astype(np.uint8)), torch.zeros(2, 5, 6, 7))


def test_damaged(tmp_path, values):
    path = write(tmp_path / "mask.nii.gz", values.astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"mask\.nii\.gz is damaged"):
        load_mask(path)
