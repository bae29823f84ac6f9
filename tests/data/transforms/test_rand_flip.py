import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data.transforms.rand_flip import RandFlipLR


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_flip_finds_left_and_right(axis, sign):
    order = [(axis + i) % 3 for i in range(3)]
    affine = np.eye(4)
    # world x runs along `axis`, a little oblique
    affine[:3, :3] = np.linalg.qr(np.eye(3) + 0.2)[0][:, np.argsort(order)] * np.array([2.0, 2.0, 2.0])
    affine[:3, axis] *= sign
    clip = MetaTensor(torch.rand(1, 4, 5, 6, 3), affine=torch.from_numpy(affine))
    flipped = RandFlipLR(prob=1.0)(clip)
    assert torch.equal(flipped.as_tensor(), clip.as_tensor().flip(1 + axis))
    # each voxel keeps its place in the world
    last = np.array([*(clip.shape[1:4]), 1]) - [1, 1, 1, 0]
    voxel = np.array([1, 2, 3, 1])
    mirrored = voxel.copy()
    mirrored[axis] = last[axis] - voxel[axis]
    np.testing.assert_allclose(flipped.affine.numpy() @ mirrored, affine @ voxel, atol=1e-12)
    assert torch.equal(RandFlipLR(prob=1.0)(flipped), clip)
