import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Affine, Compose

from nstorm.data.transforms import TimeToFirstd
from nstorm.data.transforms.rand_affine import RandBOLDAffine, RandBOLDAffined
from nstorm.data.transforms.rand_flip import RandFlipLRd
from tests.data.transforms.affines import AFFINES, SHAPE, positions


def marker(affine, voxel, width=6.0):
    distance = np.linalg.norm(positions(affine) - (affine[:3, :3] @ voxel + affine[:3, 3]), axis=-1)
    blob = torch.from_numpy(np.exp(-0.5 * (distance / width) ** 2)).float()
    return MetaTensor(blob[None, ..., None].repeat(1, 1, 1, 1, 3), affine=torch.from_numpy(affine), meta={"tr": 1.0})


def centroid(clip, affine):
    weight = clip.as_tensor()[0, ..., 0].double().numpy()
    return (positions(affine) * weight[..., None]).sum((0, 1, 2)) / weight.sum()


def centre_of(affine):
    return affine[:3, :3] @ (np.array(SHAPE) - 1) / 2 + affine[:3, 3]


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_marker_moves_in_mm_as_the_matrix_says(affine):
    clip = marker(affine, np.array([17.0, 11.0, 13.0]))
    move = RandBOLDAffine(rotate_range=0.3, translate_range=6.0, scale_range=0.15, shear_range=0.1).set_random_state(1)
    moved = move(clip)
    start, centre = centroid(clip, affine), centre_of(affine)
    # the matrix tells where the result is read from
    expected = np.linalg.inv(move.matrix) @ [*(start - centre), 1]
    assert np.linalg.norm(expected[:3] + centre - start) > 3
    np.testing.assert_allclose(centroid(moved, affine), expected[:3] + centre, atol=0.2)
    # with the new affine, the marker stays where it was in the world
    np.testing.assert_allclose(centroid(moved, moved.affine.numpy()), start, atol=0.2)


def test_rotation_of_anisotropic_voxels_keeps_distances():
    affine = AFFINES["anisotropic"]
    first, second = (np.array(voxel) for voxel in ([11.0, 12.0, 8.0], [19.0, 13.0, 14.0]))
    turn = RandBOLDAffine(rotate_range=((0.5, 0.5), (0.3, 0.3), (0.2, 0.2)))
    before = [centroid(marker(affine, voxel, 4.0), affine) for voxel in (first, second)]
    after = [centroid(turn(marker(affine, voxel, 4.0)), affine) for voxel in (first, second)]
    assert np.linalg.norm(after[0] - before[0]) > 3
    assert np.linalg.norm(after[0] - after[1]) == pytest.approx(np.linalg.norm(before[0] - before[1]), abs=0.2)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_there_and_back(affine):
    clip = marker(affine, np.array([17.0, 11.0, 13.0]), width=16.0)
    there, back = (RandBOLDAffine(rotate_range=((a, a), 0.0, 0.0), translate_range=0.0) for a in (0.35, -0.35))
    returned = back(there(clip))
    assert (there(clip) - clip).abs().max() > 0.1
    assert (returned - clip).abs()[:, 6:-6, 6:-6, 6:-6].max() < 0.03
    torch.testing.assert_close(returned.affine, clip.affine)


def test_equals_monai_on_isotropic_voxels():
    clip = torch.rand(5, *SHAPE)
    ours = RandBOLDAffine(rotate_range=0.4, shear_range=0.1, translate_range=3.0, scale_range=0.2).set_random_state(2)
    found = ours(clip)
    expected, _ = Affine(affine=ours.matrix, padding_mode="border")(clip)
    torch.testing.assert_close(found, expected.as_tensor(), rtol=0, atol=2e-4)


def test_parameters_mean_what_they_mean_in_monai():
    clip = torch.rand(5, *SHAPE)
    fixed = {"rotate": [0.1, -0.2, 0.3], "shear": [0.1, 0.0, 0.02, 0.0, 0.05, 0.0], "translate": [1.0, 2.0, -3.0]}
    expected, _ = Affine(
        **{f"{name}_params": values for name, values in fixed.items()},
        scale_params=[1.1, 0.9, 1.05],
        padding_mode="border",
    )(clip)
    ranges = {f"{name}_range": [(value, value) for value in values] for name, values in fixed.items()}
    ours = RandBOLDAffine(**ranges, scale_range=[(0.1, 0.1), (-0.1, -0.1), (0.05, 0.05)])
    torch.testing.assert_close(ours(clip), expected.as_tensor(), rtol=0, atol=2e-4)


def test_stored_in_another_orientation_the_same_brain_moves_alike():
    affine = AFFINES["anisotropic"]
    clip = MetaTensor(torch.rand(1, *SHAPE, 2), affine=torch.from_numpy(affine))
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = SHAPE[0] - 1
    las = MetaTensor(clip.as_tensor().flip(1), affine=torch.from_numpy(affine @ flip))
    ras_moved, las_moved = (
        RandBOLDAffine(rotate_range=0.4, translate_range=5.0).set_random_state(3)(x) for x in (clip, las)
    )
    torch.testing.assert_close(las_moved.as_tensor().flip(1), ras_moved.as_tensor(), rtol=0, atol=1e-4)


def test_masks_go_along_by_nearest():
    clip = marker(AFFINES["anisotropic"], np.array([15.0, 12.0, 11.0]))
    mask = MetaTensor(clip.as_tensor()[..., 0] > 0.3, affine=clip.affine)
    item = {"image": clip, "mask": mask, "weight": mask.float()}
    move = RandBOLDAffined(
        ["image", "mask", "weight"], rotate_range=0.4, translate_range=8.0, mode=(None, None, "nearest")
    )
    moved = move.set_random_state(4)(item)
    assert moved["mask"].dtype == torch.bool
    assert moved["mask"].shape == mask.shape
    assert torch.equal(moved["weight"], moved["mask"].float())
    assert not torch.equal(moved["mask"], mask)
    overlap = (moved["image"].as_tensor()[..., 0] > 0.3) == moved["mask"].as_tensor()
    assert overlap.float().mean() > 0.99
    torch.testing.assert_close(moved["mask"].affine, moved["image"].affine)


def test_padding():
    clip = torch.ones(2, *SHAPE)
    shift = {"translate_range": ((20.0, 20.0), 0.0, 0.0)}
    assert RandBOLDAffine(**shift)(clip).eq(1).all()
    emptied = RandBOLDAffine(**shift, padding_mode="zeros")(clip)
    assert (emptied[:, :10] == 1).all()
    assert (emptied[:, 12:] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotate_range": (0.1, 0.2)}, "rotate_range has 2 entries, but it has to be one number or 3 entries"),
        ({"shear_range": (0.1, 0.2, 0.3)}, "shear_range has 3 entries, but it has to be one number or 6 entries"),
        ({"scale_range": ((0.2, 0.1), 0.0, 0.0)}, r"scale_range is \(0\.2, 0\.1\), but it has to be \(low, high\)"),
        ({"scale_range": 1.0}, "has to stay above -1"),
        ({"rotate_range": float("nan")}, "two finite numbers"),
    ],
)
def test_wrong_ranges(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandBOLDAffine(**arguments)


shapes = st.tuples(*[st.integers(1, 8)] * 3)
numbers = st.floats(-1.0, 1.0)


@given(shapes, st.lists(numbers, min_size=9, max_size=9), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_reads_where_the_matrix_says(shape, entries, seed):
    affine = np.eye(4)
    affine[:3, :3] = np.diag([2.0, 3.0, 4.0]) + np.array(entries).reshape(3, 3) * 0.6
    affine[:3, 3] = 5, -7, 11
    # the frames are the world's x, y and z, which are linear, so that interpolation is exact
    world = positions(affine, shape)
    clip = MetaTensor(torch.from_numpy(world)[None], affine=torch.from_numpy(affine))
    move = RandBOLDAffine(rotate_range=0.5, shear_range=0.2, translate_range=2.0, scale_range=0.3).set_random_state(
        seed
    )
    found = move(clip).as_tensor()[0].numpy()
    centre = affine[:3, :3] @ (np.array(shape) - 1) / 2 + affine[:3, 3]
    expected = (world - centre) @ move.matrix[:3, :3].T + move.matrix[:3, 3] + centre
    voxels = (expected - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    inside = ((voxels >= 0) & (voxels <= np.array(shape) - 1)).all(axis=-1)
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)


def test_undone_whether_applied_or_not():
    places = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in (17, 15, 13)), indexing="ij"))
    smooth = torch.exp(-1.5 * places.square().sum(0))
    affine = torch.from_numpy(np.array([[-2.0, 0, 0, 9], [0, 3, 0, -4], [0, 0, 4, 5], [0, 0, 0, 1]]))
    clip = MetaTensor(smooth[None, ..., None].repeat(1, 1, 1, 1, 4), affine=affine, meta={"tr": 2.0})
    mask = MetaTensor(smooth[None] > 0.5, affine=affine)
    both = RandBOLDAffined(("image", "mask"), prob=0.5, rotate_range=0.2, translate_range=3.0)
    compose = Compose([RandFlipLRd(("image", "mask")), both, TimeToFirstd("image")])
    applied = 0
    compose.set_random_state(0)
    for _ in range(12):
        there = compose({"image": clip, "mask": mask})
        back = compose.inverse(there)
        assert back["image"].shape == clip.shape
        assert back["mask"].dtype == torch.bool
        torch.testing.assert_close(back["image"].affine, affine, rtol=0, atol=1e-6)
        assert (back["image"] - clip).abs()[:, 2:-2, 2:-2, 2:-2].max() < 0.08
        assert (back["mask"].as_tensor() != mask.as_tensor()).float().mean() < 0.05
        assert back["image"].applied_operations == clip.applied_operations == []
        applied += not torch.equal(there["image"].affine[:, 1:], affine[:, 1:])
    assert 0 < applied < 12
