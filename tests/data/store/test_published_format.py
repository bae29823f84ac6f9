import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor

from nstorm.data import haxby_runs, load_bold, mni152_grid, prepare_published
from nstorm.data.store.published_format import load_published
from tests.data.store.published_files import (
    write_data_pt,
    write_each_frame,
    write_frames_and_step,
    write_frames_pt,
)

AFFINE = torch.diag(torch.tensor([-2.0, 2, 2, 1], dtype=torch.float64))
STEP = 0.02


def codes(num_frames=12, shape=(5, 7, 3)):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(-60, 128, (num_frames, *shape), generator=generator).to(torch.int8)
    frames[:, 0] = -100
    return frames


@pytest.fixture
def data(tmp_path):
    return write_frames_and_step(tmp_path / "100307_REST1_LR", codes(), STEP)


@pytest.fixture
def frames(tmp_path):
    return write_each_frame(tmp_path / "sub-01", codes() * STEP)


def test_a_real_recording_is_what_was_prepared(tmp_path):
    bold = load_bold(haxby_runs()[0].bold, frames=(0, 9))
    prepared, step = prepare_published(bold, quantize=True)
    values = prepare_published(bold)
    whole = write_data_pt(tmp_path / "whole", bold)
    each = write_frames_pt(tmp_path / "each", bold)
    assert sorted(path.name for path in whole.iterdir()) == ["data.pt"]
    assert len(list(each.iterdir())) == len(prepared) > 20
    for folder, rounded in ((whole, prepared.as_tensor() * step), (each, values.as_tensor().half().float())):
        loaded = load_published(folder, affine=values.affine)
        assert loaded.dtype == torch.float32
        torch.testing.assert_close(loaded.as_tensor(), rounded, rtol=2e-7, atol=0)
        torch.testing.assert_close(loaded.affine, values.affine)
        assert loaded.meta["tr"] == values.meta["tr"] == 0.8


def test_affine_by_default_is_that_of_the_published_preparation(tmp_path):
    grid = mni152_grid()
    assert grid.shape == (91, 109, 91)
    bold = MetaTensor(torch.ones(2, *grid.shape), affine=grid.affine, meta={"tr": 0.8})
    bold[:, 40:50, 50:60, 40:50] += torch.rand(2, 10, 10, 10)
    prepared = prepare_published(bold)
    assert prepared.shape == (2, 91, 96, 91)
    loaded = load_published(write_data_pt(tmp_path, bold))
    assert loaded.shape == prepared.shape
    torch.testing.assert_close(loaded.affine, prepared.affine)
    assert loaded.affine.dtype == torch.float64
    assert loaded.meta["space_code"] == 4


@pytest.mark.parametrize("kind", ["data", "frames"])
def test_clip(kind, request):
    folder = request.getfixturevalue(kind)
    whole = load_published(folder, tr=0.72, affine=AFFINE)
    assert whole.shape == (12, 5, 7, 3)
    for frames in ((3, 7), slice(3, 7), range(3, 7), [3, 7]):
        clip = load_published(folder, tr=0.72, affine=AFFINE.numpy(), frames=frames)
        assert torch.equal(clip.as_tensor(), whole.as_tensor()[3:7])
        assert clip.meta["start_frame"] == 3
        assert clip.meta["start_time"] == pytest.approx(3 * 0.72)
        assert clip.meta["tr"] == 0.72
        assert clip.meta["filename_or_obj"].startswith(str(folder))
    for file in folder.iterdir():
        assert torch.equal(load_published(file, affine=AFFINE).as_tensor(), whole.as_tensor())


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 130), st.integers(0, 2**16))
def test_frames_are_in_the_order_of_their_numbers(tmp_path_factory, num_frames, seed):
    values = torch.rand(num_frames, 2, 1, 3, generator=torch.Generator().manual_seed(seed)).half()
    folder = write_each_frame(tmp_path_factory.mktemp("run"), values)
    start = seed % num_frames
    clip = load_published(folder, affine=AFFINE, frames=(start, num_frames))
    assert torch.equal(clip.as_tensor(), values[start:].float())


def test_only_frames_that_are_asked_for_are_read(frames):
    (frames / "frame_7.pt").write_bytes(b"no frame")
    assert load_published(frames, affine=AFFINE, frames=(3, 7)).shape[0] == 4
    with pytest.raises(ValueError, match=r"frame_7\.pt is damaged"):
        load_published(frames, affine=AFFINE, frames=(3, 8))


def test_values_are_not_tied_to_the_file(data):
    before = (data / "data.pt").read_bytes()
    one = load_published(data, affine=AFFINE)
    one.zero_()
    one.affine[0, 0] = 7
    assert (data / "data.pt").read_bytes() == before
    other = load_published(data, affine=AFFINE)
    assert other.abs().max() > 0
    assert other.affine[0, 0] == -2
    assert AFFINE[0, 0] == -2


def test_other_files_do_not_matter(data, frames):
    (frames / "global_stats.pt").write_bytes(b"something")
    (frames / "frame_07.pt").write_bytes(b"something")
    assert load_published(frames, affine=AFFINE).shape[0] == 12
    for file in frames.glob("frame_*.pt"):
        shutil.copy(file, data)
    # the published loaders prefer it too
    assert load_published(data, affine=AFFINE).meta["filename_or_obj"] == str(data / "data.pt")


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["data.pt", "frame_3.pt"])
@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_file_is_not_run(name, save, frames, tmp_path):
    trace = tmp_path / "trace"
    save({"frames": codes(), "scale": Code(trace), "num_frames": 12}, frames / name)
    with pytest.raises(ValueError, match=name) as error:
        load_published(frames, affine=AFFINE)
    assert not trace.exists()
    if save is torch.save:
        assert f"{os.mkdir.__module__}.mkdir" in str(error.value)
    # or the test would show nothing
    torch.save(Code(trace), tmp_path / "code.pt")
    torch.load(tmp_path / "code.pt", weights_only=False)
    assert trace.exists()


GOOD = {"frames": codes(), "scale": STEP, "num_frames": 12}


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ([1, 2], "holds a list"),
        ({"frames": codes()}, "lacks scale, num_frames"),
        (GOOD | {"frames": codes().half()}, r"float16 \(12, 5, 7, 3\), not int8"),
        (GOOD | {"frames": codes()[0]}, r"int8 \(5, 7, 3\), not int8 \(T, H, W, D\)"),
        (GOOD | {"frames": codes()[:0], "num_frames": 0}, r"int8 \(0, 5, 7, 3\)"),
        (GOOD | {"frames": "none"}, "frames that are a str"),
        (GOOD | {"scale": float("nan")}, "scale nan"),
        (GOOD | {"scale": 0.0}, r"scale 0\.0"),
        (GOOD | {"scale": "0.1"}, "scale '0.1'"),
        (GOOD | {"num_frames": 13}, "12 frames, but says that it has 13"),
        (codes(), "holds a Tensor"),
    ],
)
def test_foreign_data(saved, words, tmp_path):
    torch.save(saved, tmp_path / "data.pt")
    with pytest.raises(ValueError, match=words) as error:
        load_published(tmp_path, affine=AFFINE)
    assert str(error.value).startswith(f"{tmp_path / 'data.pt'} ")


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (GOOD, "is a dict"),
        (torch.zeros(5, 7, 3), r"is float32 \(5, 7, 3\), not floating-point numbers \(H, W, D, 1\)"),
        (torch.zeros(5, 7, 3, 2), r"\(5, 7, 3, 2\)"),
        (torch.zeros(5, 7, 3, 1, dtype=torch.int8), "is int8"),
        (torch.zeros(5, 7, 4, 1), r"has voxels \(5, 7, 4\), but frame_0.pt beside it \(5, 7, 3\)"),
        (torch.full((5, 7, 3, 1), torch.nan), "has NaN or infinite values"),
        (torch.full((5, 7, 3, 1), torch.inf).half(), "has NaN or infinite values"),
    ],
)
def test_foreign_frame(saved, words, frames):
    torch.save(saved, frames / "frame_4.pt")
    with pytest.raises(ValueError, match=words) as error:
        load_published(frames, affine=AFFINE)
    assert str(error.value).startswith(f"{frames / 'frame_4.pt'} ")


@pytest.mark.filterwarnings("ignore:Validating sparse:UserWarning", "ignore:TypedStorage:UserWarning")
@pytest.mark.parametrize("other", [codes().to_sparse(), codes().to("meta")])
def test_tensors_without_a_number_for_each_voxel(other, tmp_path):
    torch.save(GOOD | {"frames": other}, tmp_path / "data.pt")
    with pytest.raises(ValueError, match="frames that are int8"):
        load_published(tmp_path, affine=AFFINE)


@pytest.mark.parametrize("kept", [0, 100, 0.5, -1])
def test_truncated_file(kept, data):
    file = data / "data.pt"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"data\.pt is damaged"):
        load_published(data, affine=AFFINE)


def test_large_values_of_float16_are_no_infinity(tmp_path):
    write_each_frame(tmp_path, torch.full((2, 9, 9, 9), 6e4))
    assert load_published(tmp_path, affine=AFFINE).min() > 5.9e4


def test_missing_frames(frames):
    (frames / "frame_0.pt").unlink()
    (frames / "frame_5.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"sub-01 has frames up to 11, but no frame_0\.pt and 1 more"):
        load_published(frames, affine=AFFINE)


def test_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run: it has no data\.pt"):
        load_published(tmp_path)
    with pytest.raises(FileNotFoundError, match="other is no folder"):
        load_published(tmp_path / "other")
    (tmp_path / "bold.nii").touch()
    with pytest.raises(FileNotFoundError, match=r"bold\.nii is no folder"):
        load_published(tmp_path / "bold.nii")


def test_bad_arguments(data):
    with pytest.raises(ValueError, match=r"voxels \(5, 7, 3\).*pass affine="):
        load_published(data)
    with pytest.raises(ValueError, match=r"affine has shape \(3, 3\)"):
        load_published(data, affine=np.eye(3))
    with pytest.raises(ValueError, match=r"tr is 0\.0"):
        load_published(data, affine=AFFINE, tr=0.0)
    for frames, words in (((5, 13), "frames 5 to 13 of"), ((5, 5), "5 to 5"), ((1, 2, 3), "two whole numbers")):
        with pytest.raises(ValueError, match=words):
            load_published(data, affine=AFFINE, frames=frames)
    with pytest.raises(ValueError, match="a step of 2"):
        load_published(data, affine=AFFINE, frames=range(0, 8, 2))
