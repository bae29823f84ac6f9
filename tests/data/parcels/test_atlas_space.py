import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from nilearn.image import resample_to_img

from nstorm.data.parcels.atlas import Atlas, schaefer_atlas
from nstorm.data.parcels.atlas_space import mask_on_grid, parcel_coverage, resample_atlas
from nstorm.data.space.grid import Grid, grid_of, mni152_grid


def small_atlas(shape=(6, 5, 7), affine=None, num_parcels=20):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, num_parcels + 1, (1, *shape), generator=generator)
    affine = torch.eye(4, dtype=torch.float64) if affine is None else torch.as_tensor(affine)
    return Atlas("small", MetaTensor(labels, affine=affine), tuple(f"parcel {k}" for k in range(num_parcels)))


def oblique(seed, spacing):
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = np.random.default_rng(seed + 1).normal(size=3)
    return affine


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    offset=st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, -1.5])] * 3),
    seed=st.one_of(st.none(), st.integers(0, 1000)),
)
def test_labels_do_not_depend_on_how_the_run_is_stored(order, flips, offset, seed):
    # an offset of half a voxel puts every voxel of the run exactly between two of the atlas
    space = np.eye(4) if seed is None else oblique(seed, 1.3)
    atlas = small_atlas(affine=space)
    shape, step = (4, 3, 5), np.diag([1.0, 2.0, 1.0, 1.0])
    step[:3, 3] = offset
    stored = np.stack([order, flips], axis=1)
    affine = space @ step @ nibabel.orientations.inv_ornt_aff(stored, shape)
    plain = resample_atlas(atlas, Grid(shape, space @ step)).image[0].numpy()
    expected = nibabel.orientations.apply_orientation(plain, stored)
    np.testing.assert_array_equal(resample_atlas(atlas, Grid(expected.shape, affine)).image[0].numpy(), expected)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_nilearn_on_oblique_grids(seed):
    atlas = small_atlas((9, 11, 8), oblique(seed, (3.0, 2.0, 2.5)))
    affine = oblique(seed + 50, (2.1, 3.3, 2.7))
    affine[:3, 3] += atlas.image.affine[:3].numpy() @ [4, 5, 3.5, 1] - affine[:3] @ [5.5, 3, 4.5, 1]
    target = nibabel.Nifti1Image(np.zeros((12, 7, 10)), affine)
    # in nilearn the outer half of the outer voxels is outside
    atlas.image[0].as_tensor()[torch.nn.functional.pad(torch.zeros(7, 9, 6), (1,) * 6, value=1.0) > 0] = 0
    source = nibabel.Nifti1Image(atlas.image[0].numpy().astype(np.int32), atlas.image.affine.numpy())
    expected = resample_to_img(source, target, interpolation="nearest", copy_header=True, force_resample=True)
    found = resample_atlas(atlas, target)
    assert (found.sizes > 0).sum() > 10
    np.testing.assert_array_equal(found.image[0].numpy(), np.asanyarray(expected.dataobj))
    np.testing.assert_array_equal(found.image.affine.numpy(), target.affine)
    assert found.labels == atlas.labels


def test_affines_in_float32_change_no_label():
    atlas = small_atlas()
    # every other centre lies between two voxels of the atlas
    exact = np.diag([1.5, 1.5, 1.5, 1.0])
    inexact = exact + 1e-6 * oblique(3, 1.0) * np.array([[1], [1], [1], [0]])
    expected = resample_atlas(atlas, Grid((4, 3, 5), exact))
    assert torch.equal(resample_atlas(atlas, Grid((4, 3, 5), inexact)).image, expected.image)


@pytest.mark.filterwarnings("ignore:a voxel of atlas")
@pytest.mark.parametrize("num_parcels", [100, 200, 400])
@pytest.mark.parametrize("axcodes", ["RAS", "LAS", "PSL"])
def test_left_stays_left(num_parcels, axcodes):
    grid = mni152_grid(4.0 if num_parcels == 200 else 3.0)
    turn = nibabel.orientations.axcodes2ornt(axcodes)
    turn = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), turn)
    shape = nibabel.orientations.apply_orientation(np.zeros(grid.shape), turn).shape
    affine = grid.affine.numpy() @ nibabel.orientations.inv_ornt_aff(turn, grid.shape)
    assert "".join(nibabel.aff2axcodes(affine)) == axcodes
    atlas = resample_atlas(schaefer_atlas(num_parcels), Grid(shape, affine))
    x = nibabel.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))[..., 0]
    sums = np.bincount(atlas.image[0].numpy().ravel(), weights=x.ravel())[1:]
    for mean, label, hemisphere in zip(sums / atlas.sizes.numpy(), atlas.labels, atlas.hemispheres, strict=True):
        assert hemisphere == ("LH" if mean < 0 else "RH")
        assert f"_{hemisphere}_" in label


def test_layouts_give_the_same_grid():
    atlas = small_atlas()
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    images = [torch.zeros(2, 3, 2, 4), torch.zeros(1, 3, 2, 4), torch.zeros(1, 3, 2, 4, 2)]
    expected = resample_atlas(atlas, Grid((3, 2, 4), affine))
    for image in images:
        found = resample_atlas(atlas, MetaTensor(image, affine=affine))
        assert torch.equal(found.image, expected.image)


def test_parcels_without_a_voxel_keep_their_place():
    atlas = Atlas("line", MetaTensor(torch.arange(9, dtype=torch.int32).view(1, 9, 1, 1)), tuple("abcdefgh"))
    found = resample_atlas(atlas, Grid((3, 1, 1), np.diag([3.0, 1, 1, 1])))
    assert found.image.flatten().tolist() == [0, 3, 6]
    assert found.sizes.tolist() == [0, 0, 1, 0, 0, 1, 0, 0]


def test_an_atlas_on_the_grid_stays_as_it_is():
    atlas = small_atlas()
    assert resample_atlas(atlas, grid_of(atlas.image)) is atlas


def test_atlas_in_another_space():
    with pytest.raises(ValueError, match=r"no voxel of atlas small lies in the grid of \(3, 3, 3\) voxels"):
        resample_atlas(small_atlas(), Grid((3, 3, 3), [[1, 0, 0, 100], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))


def test_atlas_coarser_than_the_run():
    with pytest.warns(UserWarning, match=r"a voxel of atlas small has 8 times the volume of a voxel of the run"):
        resample_atlas(small_atlas(), Grid((3, 3, 3), np.diag([0.5, 0.5, 0.5, 1])))


def test_coverage():
    labels = torch.tensor([1, 1, 1, 1, 2, 2, 0, 0, 3, 3]).view(1, 10, 1, 1)
    atlas = Atlas("line", MetaTensor(labels), ("long", "short", "far", "none"))
    run = Grid((4, 1, 1), np.diag([2.0, 1, 1, 1]))  # centres at 0, 2, 4, 6: up to 7 mm
    np.testing.assert_allclose(parcel_coverage(atlas, run), [1, 1, 0, 0])
    mask = torch.tensor([False, True, True, False]).view(4, 1, 1)
    # halves go up: the voxels at 1, 2 mm and at 3, 4 mm are nearest to 2 and 4 mm
    np.testing.assert_allclose(parcel_coverage(atlas, run, mask=mask), [0.75, 0.5, 0, 0])
    np.testing.assert_allclose(parcel_coverage(atlas, run, mask=mask[None]), [0.75, 0.5, 0, 0])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 3, 4), r"mask has dtype torch\.float32, but it has to be a boolean tensor"),
        (torch.ones(2, 4, 3, dtype=torch.bool), r"mask has shape \(2, 4, 3\), but a frame of the run has \(2, 3, 4\)"),
        (
            MetaTensor(torch.ones(1, 2, 3, 4, dtype=torch.bool), affine=torch.diag(torch.tensor([-1.0, 1, 1, 1]))),
            r"mask has the affine \[\[-1\.0, .*, but the run has \[\[1\.0",
        ),
    ],
    ids=["dtype", "shape", "affine"],
)
def test_masks_that_do_not_fit(mask, message):
    with pytest.raises(ValueError, match=message):
        mask_on_grid(mask, Grid((2, 3, 4), np.eye(4)))


def test_tensor_without_an_affine():
    with pytest.raises(ValueError, match="plain tensor"):
        resample_atlas(small_atlas(), torch.zeros(2, 3, 4, 5))
