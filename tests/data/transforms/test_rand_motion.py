import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from scipy.spatial.transform import Rotation

from nstorm.data.space.sampling import sample_volume
from nstorm.data.transforms.rand_affine import centred
from nstorm.data.transforms.rand_motion import RandMotion, RandMotiond

SHAPE = (29, 24, 21)


def oblique():
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [0.2, -0.1, 0.3]).as_matrix() @ np.diag([-2.0, 3.0, 4.0])
    affine[:3, 3] = 30, -20, 5
    return affine


def world(affine):
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    return voxels @ affine[:3, :3].T + affine[:3, 3]


def test_a_marker_follows_the_trace():
    affine = oblique()
    centre = affine[:3, :3] @ (np.array(SHAPE) - 1) / 2 + affine[:3, 3]
    start = centre + np.array([6.0, -8.0, 7.0])
    blob = np.exp(-0.5 * (np.linalg.norm(world(affine) - start, axis=-1) / 7) ** 2)
    still = torch.from_numpy(blob).float()[None, ..., None].repeat(1, 1, 1, 1, 12)
    move = RandMotion(translate_range=(2.0, 5.0), rotate_range=(0.05, 0.2), max_jerks=2).set_random_state(0)
    moved = move(MetaTensor(still, affine=torch.from_numpy(affine), meta={"tr": 1.0}))
    weight = moved.as_tensor()[0].double().numpy()
    found = np.einsum("hwdt,hwdc->tc", weight, world(affine)) / weight.sum((0, 1, 2))[:, None]
    # intrinsic x, then y, then z, from scipy
    turns = Rotation.from_euler("XYZ", move.trace[:, 3:])
    expected = turns.apply(start - centre) + centre + move.trace[:, :3]
    assert np.linalg.norm(expected - start, axis=1).max() > 3
    np.testing.assert_allclose(found, expected, atol=0.15)
    np.testing.assert_array_equal(moved.meta["motion"].numpy(), move.trace)
    torch.testing.assert_close(moved.affine, torch.from_numpy(affine))


def test_each_frame_equals_sampling_in_its_pose():
    affine = oblique()
    run = MetaTensor(torch.rand(4, *SHAPE, dtype=torch.float64), affine=torch.from_numpy(affine))
    move = RandMotion(translate_range=(3.0, 3.0), rotate_range=(0.2, 0.2)).set_random_state(1)
    moved = move(run).as_tensor()
    to_mm = centred(run.affine.numpy(), run)
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    for frame in range(4):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("XYZ", move.trace[frame, 3:]).as_matrix()
        pose[:3, 3] = move.trace[frame, :3]
        back = np.linalg.inv(to_mm) @ np.linalg.inv(pose) @ to_mm
        places = torch.from_numpy(voxels @ back[:3, :3].T + back[:3, 3])
        expected = sample_volume(run.as_tensor()[frame][..., None], places)[..., 0]
        torch.testing.assert_close(moved[frame], expected, rtol=0, atol=1e-9)


def test_traces():
    move = RandMotion(translate_range=(0.5, 2.0), rotate_range=(0.01, 0.03)).set_random_state(0)
    run = MetaTensor(torch.rand(40, 3, 4, 1), affine=torch.eye(4))
    traces = []
    for _ in range(20):
        move.randomize(run)
        traces.append(move.trace)
    traces = np.stack(traces)
    assert traces.shape == (20, 40, 6)
    np.testing.assert_allclose(traces.mean(axis=1), 0, atol=1e-12)
    largest = np.abs(traces).max(axis=1)
    assert ((largest[:, :3] >= 0.5) & (largest[:, :3] <= 2)).all()
    assert ((largest[:, 3:] >= 0.01) & (largest[:, 3:] <= 0.03)).all()
    # a walk: neighbouring frames are alike
    assert np.corrcoef(traces[:, 1:, 0].ravel(), traces[:, :-1, 0].ravel())[0, 1] > 0.8


def test_jerks_are_steps():
    run = MetaTensor(torch.rand(60, 2, 2, 2), affine=torch.eye(4))
    steps = {}
    for jerks in (0, 3):
        move = RandMotion(translate_range=(1.0, 1.0), max_jerks=jerks).set_random_state(3)
        largest = []
        for _ in range(30):
            move.randomize(run)
            largest.append(np.abs(np.diff(move.trace[:, 0])).max())
        steps[jerks] = np.mean(largest)
    assert steps[3] > 1.5 * steps[0]


def test_one_frame_does_not_move():
    volume = MetaTensor(torch.rand(1, 5, 6, 7), affine=torch.eye(4))
    torch.testing.assert_close(RandMotion(translate_range=(5.0, 5.0))(volume).as_tensor(), volume.as_tensor())


def test_one_slice():
    run = MetaTensor(torch.rand(6, 12, 10, 1), affine=torch.eye(4))
    assert RandMotion(rotate_range=(0.1, 0.1))(run).isfinite().all()


def test_a_mask_among_the_keys_is_refused():
    clip = MetaTensor(torch.rand(1, 5, 6, 7, 4), affine=torch.eye(4))
    item = {"image": clip, "mask": MetaTensor(torch.ones(1, 5, 6, 7), affine=torch.eye(4))}
    with pytest.raises(ValueError, match=r"the image has 1 frames, but the motion was drawn for 4: leave .* masks too"):
        RandMotiond(["image", "mask"])(item)


def test_negative_jerks():
    with pytest.raises(ValueError, match="max_jerks is -1"):
        RandMotion(max_jerks=-1)
