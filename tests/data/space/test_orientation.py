from itertools import permutations, product

import nibabel
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from nibabel.orientations import io_orientation

from nstorm.data import time_first, time_last
from nstorm.data.space.grid import grid_of
from nstorm.data.space.orientation import axcodes_of, orientation_towards, rearrange, reorient, reverse

ALL = ["".join(codes) for order in permutations((("L", "R"), ("P", "A"), ("I", "S"))) for codes in product(*order)]
OBLIQUE = np.array([[-1.9, 0.5, 0.1, 30], [0.4, 2.8, -0.9, -20], [0.1, 0.8, 3.9, 5], [0, 0, 0, 1]])


def run_of(shape=(3, 4, 5, 6), affine=OBLIQUE):
    values = torch.arange(float(np.prod(shape))).view(shape)
    return MetaTensor(values, affine=torch.as_tensor(affine), meta={"tr": 2.0, "subject": "a"})


def places_and_values(image):
    """Every voxel of the first frame: where it is in mm, and what it holds."""
    grid = grid_of(image)
    voxels = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1).reshape(-1, 3)
    places = nibabel.affines.apply_affine(grid.affine.numpy(), voxels)
    values = time_first(image)[0].as_tensor().numpy().ravel()
    order = np.argsort(values)
    return places[order], values[order]


@pytest.mark.parametrize("axcodes", ALL)
def test_every_voxel_keeps_its_value_and_its_place(axcodes):
    bold = run_of()
    result = reorient(bold, axcodes)
    assert axcodes_of(result) == axcodes
    np.testing.assert_allclose(places_and_values(result)[0], places_and_values(bold)[0], atol=1e-9)
    np.testing.assert_array_equal(places_and_values(result)[1], places_and_values(bold)[1])
    # nibabel does the same
    image = nibabel.Nifti1Image(np.moveaxis(bold.numpy(), 0, -1), OBLIQUE)
    expected = image.as_reoriented(orientation_towards(bold, axcodes))
    np.testing.assert_array_equal(np.moveaxis(result.numpy(), 0, -1), expected.get_fdata())
    np.testing.assert_allclose(result.affine, expected.affine)


@pytest.mark.parametrize("axcodes", ["RAS", "LAS", "SPL", "ILA"])
def test_both_layouts_and_the_way_back(axcodes):
    bold = run_of()
    orientation = orientation_towards(bold, axcodes)
    for image in (bold, time_last(bold)):
        before = image.clone()
        result = rearrange(image, orientation)
        assert result.is_contiguous()
        assert result.meta["tr"] == 2.0
        assert result.meta["subject"] == "a"
        assert torch.equal(time_first(result).as_tensor(), time_first(reorient(bold, axcodes)).as_tensor())
        back = rearrange(result, reverse(orientation))
        assert torch.equal(back, before)
        assert torch.equal(image, before)
        torch.testing.assert_close(back.affine, before.affine)
        torch.testing.assert_close(image.affine, before.affine)


def test_oblique_images_stay_oblique():
    angle = np.deg2rad(40)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    result = reorient(run_of(affine=affine), "LPS")
    assert axcodes_of(result) == "LPS"
    np.testing.assert_allclose(np.abs(result.affine.numpy()[:3, :3]), np.abs(affine[:3, :3]), atol=1e-12)
    assert io_orientation(result.affine.numpy())[:, 0].tolist() == [0, 1, 2]


def test_lower_case_and_masks():
    mask = MetaTensor(torch.rand(1, 4, 5, 6) > 0.5, affine=torch.as_tensor(OBLIQUE))
    result = reorient(mask, "ras")
    assert axcodes_of(result) == "RAS"
    assert result.dtype == torch.bool


@pytest.mark.parametrize("axcodes", ["RA", "RASS", "RLS", "XYZ", ""])
def test_what_is_no_orientation(axcodes):
    with pytest.raises(ValueError, match=f"axcodes is '{axcodes}', but it has to name one of L and R"):
        reorient(run_of(), axcodes)


def test_images_without_an_affine_or_with_another_shape():
    with pytest.raises(ValueError, match="plain tensor"):
        reorient(torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"bold has shape \(4, 5, 6\)"):
        reorient(run_of((4, 5, 6)))
