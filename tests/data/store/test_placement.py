import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data import crop_or_pad
from nstorm.data.store.placement import placed

AFFINE = torch.tensor([[2.0, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]], dtype=torch.float64)
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("size", [None, 8, 5, (4, 9, 7), [7, 3, 10], (6, 5, 7)])
def test_voxels_lie_where_crop_or_pad_puts_them(size):
    mask = RANDOM.random((6, 5, 7)) < 0.4
    values = RANDOM.normal(size=mask.sum())
    where = placed(mask, AFFINE, size)
    image = np.zeros(mask.shape)
    image[mask] = values
    expected = MetaTensor(torch.from_numpy(image)[None], affine=AFFINE)
    expected = expected if size is None else crop_or_pad(expected, size)

    found = np.zeros(where.shape)
    kept = where.places >= 0
    found.reshape(-1)[where.places[kept]] = values[kept]
    assert np.array_equal(found, expected[0].as_tensor().numpy())
    assert np.array_equal(where.mask, found != 0)
    assert torch.equal(where.affine, expected.affine)


def test_a_size_without_brain_is_refused():
    mask = np.zeros((9, 9, 9), bool)
    mask[0, 0, 0] = True
    with pytest.raises(ValueError, match="no voxel of the brain is left"):
        placed(mask, AFFINE, 3)
