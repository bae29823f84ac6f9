import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nstorm.data.store.encoding import ABSENT, Encoded, encode, far_frames
from tests.data.store.runs import correlations, fabricated, haxby, rest

DTYPES = ["int8", "int16", "float16", "float32"]


def decoded(encoded: Encoded) -> np.ndarray:
    values = encoded.codes.astype(np.float32) * encoded.scale + encoded.offset
    values[encoded.far] = encoded.far_codes.astype(np.float32) * encoded.scale + encoded.offset
    return values


def with_trouble(num_frames: int, kind: str, size: float, seed: int) -> np.ndarray:
    random = np.random.RandomState(seed)
    values = 1000 + 10 * random.randn(num_frames, 40)
    frame, some = random.randint(num_frames), random.rand(40) < 0.3
    if kind == "spike":
        values[frame, some] += 10 * size
    elif kind == "two spikes":
        values[frame, some] += 10 * size
        values[random.randint(num_frames), some] -= 10 * size
    elif kind == "drift":
        values += 10 * size * random.randn(40) * np.linspace(-1, 1, num_frames)[:, None]
    elif kind == "step":
        values[frame:] += 10 * size * random.randn(40)
    elif kind == "first frames":
        values[: max(1, num_frames // 20)] *= 1 + size / 100
    elif kind == "two levels":
        values = 1000 + (random.rand(num_frames, 40) < 0.5) * size + (random.rand(num_frames, 40) < 0.01) * 20 * size
    elif kind == "large and steady":
        values = 1e7 + np.rint(size * random.randn(num_frames, 40))
    elif kind == "tiny":
        values *= 10.0 ** (-size / 3)
    elif kind == "huge":
        values *= 10.0 ** (size / 3)
    return values.astype(np.float32)


KINDS = [
    "spike", "two spikes", "drift", "step", "first frames", "two levels", "large and steady", "tiny", "huge",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    num_frames=st.one_of(st.integers(2, 40), st.sampled_from([77, 121, 260, 1200])),
    kind=st.sampled_from(KINDS),
    size=st.floats(1, 100),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_every_voxel_keeps_its_course(num_frames, kind, size, dtype, seed):
    values = with_trouble(num_frames, kind, size, seed)
    encoded = encode(values, dtype)
    varies = (values != values[0]).any(0)
    again = decoded(encoded)
    assert np.array_equal(again[:, ~varies], values[:, ~varies])
    assert (correlations(again[:, varies], values[:, varies]) > 0.9999).all()
    # what holds for all frames because of the far ones holds without them too
    near = ~far_frames(values)
    varies = (values[near] != values[near][0]).any(0)
    assert (correlations(again[near][:, varies], values[near][:, varies]) > 0.9999).all()


@pytest.mark.parametrize("recording", [rest, haxby], ids=["rest", "haxby"])
def test_real_recordings_fit_into_int8(recording):
    values, _, _ = recording()
    encoded = encode(values)
    assert encoded.codes.dtype == np.int8
    assert not encoded.far.size
    varies = values.std(0) > 0
    assert correlations(decoded(encoded)[:, varies], values[:, varies]).min() > 0.9999
    assert (np.abs(decoded(encoded) - values) <= encoded.scale / 2 * 1.001 + np.spacing(values) / 2).all()


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_a_code_never_says_absent(dtype):
    values, _ = fabricated(130)
    codes = encode(values, dtype).codes
    assert codes.dtype == dtype
    most = np.iinfo(dtype).max
    assert ABSENT[dtype] < -most == codes.min()
    assert codes.max() == most


def test_float32_is_the_values_themselves():
    values, _ = fabricated()
    encoded = encode(values, "float32")
    assert encoded.codes is values
    assert np.array_equal(decoded(encoded), values)


def test_frames_before_the_steady_state_cost_the_others_nothing():
    values, _ = fabricated(260)
    changed = values.copy()
    changed[:3] *= [[2.0], [1.3], [1.1]]
    encoded = encode(changed)
    assert encoded.far.tolist() == [0, 1, 2]
    assert encoded.codes.dtype == np.int8
    # as if they were not there
    alone = encode(values[3:])
    assert np.array_equal(encoded.codes[3:], alone.codes)
    assert np.array_equal(encoded.scale, alone.scale)
    assert np.allclose(decoded(encoded)[:3], changed[:3], rtol=1e-3)
    assert np.array_equal(encoded.mean, alone.mean)
    assert np.array_equal(encoded.std, alone.std)


@pytest.mark.parametrize("dtype", ["int16", "float16", "float32"])
def test_statistics_leave_far_frames_out_in_every_type(dtype):
    values, _ = fabricated(100)
    values[0] *= 2
    encoded, alone = encode(values, dtype), encode(values[1:], dtype)
    assert np.array_equal(encoded.mean, alone.mean)
    assert np.array_equal(encoded.std, alone.std)


def test_a_far_frame_beyond_float16_is_not_cut_off():
    values, _ = fabricated(100)
    values[7] = 1e9
    again = decoded(encode(values))
    assert np.allclose(again[7], 1e9, rtol=1e-3)
    near = np.arange(100) != 7
    assert correlations(again[near], values[near]).min() > 0.9999


def test_a_constant_voxel_is_constant():
    values = np.full((33, 3), 1000.1, np.float32)
    values[:, 1] = np.arange(33)
    values[:, 2] = 0
    encoded = encode(values)
    assert encoded.std.tolist() == [0, pytest.approx(values[:, 1].std()), 0]
    assert np.array_equal(decoded(encoded)[:, [0, 2]], values[:, [0, 2]])
    assert np.array_equal(encoded.mean.astype(np.float32)[[0, 2]], values[0, [0, 2]])


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (20, 1), (2, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_frames_and_voxels(shape, dtype):
    values = np.random.RandomState(0).randn(*shape).astype(np.float32)
    encoded = encode(values, dtype)
    assert np.allclose(decoded(encoded), values, atol=0.02)
    assert encoded.codes.shape == shape


def test_the_ends_of_float32():
    values = np.array([[-3e38, 1e-44, 3e38], [3e38, 5e-44, 3e38], [1e38, 3e-44, -3e38]], np.float32)
    assert np.allclose(decoded(encode(values)), values, rtol=1e-2, atol=0)


def test_statistics_in_double_precision():
    values, _ = fabricated(150)
    values += 1e5
    encoded = encode(values)
    assert np.allclose(encoded.mean, values.mean(0, dtype=np.float64), rtol=1e-12)
    assert np.allclose(encoded.std, values.std(0, dtype=np.float64), rtol=1e-10)


def test_voxels_are_encoded_one_by_one(monkeypatch):
    values, _ = fabricated(70)
    whole = encode(values)
    monkeypatch.setattr("nstorm.data.store.encoding._BLOCK", 500)
    in_blocks = encode(values)
    assert np.array_equal(whole.codes, in_blocks.codes)
    assert np.array_equal(whole.offset, in_blocks.offset)
    assert np.array_equal(whole.std, in_blocks.std)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5])
def test_few_frames_are_not_far(num_frames):
    assert not far_frames(np.random.RandomState(0).randn(num_frames, 30).astype(np.float32)).any()
