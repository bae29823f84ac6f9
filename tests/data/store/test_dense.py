import numpy as np
import pytest

from nstorm.data.store.dense import background_values, fill_dense


@pytest.mark.parametrize("dtype", ["int8", "int16", "float16", "float32"])
@pytest.mark.parametrize("background", [0.0, -2.5])
@pytest.mark.parametrize(("num_frames", "num_voxels"), [(1, 1), (7, 37), (20, 60)])
def test_as_numpy_to_the_last_bit(dtype, background, num_frames, num_voxels):
    random = np.random.RandomState(0)
    codes = (100 * random.randn(num_frames, num_voxels)).clip(-127, 127).astype(dtype)
    scale, offset = random.rand(2, num_voxels).astype(np.float32) * [[1], [1000]]
    places = np.sort(random.permutation(60)[:num_voxels]).astype(np.int32)
    expected = np.full((60, num_frames), background, np.float32)
    expected[places] = (codes.astype(np.float32) * scale.astype(np.float32) + offset.astype(np.float32)).T
    dense = background_values((60, len(codes)), background)
    fill_dense(codes, scale.astype(np.float32), offset.astype(np.float32), places, dense)
    assert dense.dtype == np.float32
    assert np.array_equal(dense, expected)
