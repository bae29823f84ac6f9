import json

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor

from nstorm.data import rest_run, time_last
from nstorm.data.files.masks import load_mask
from nstorm.data.files.reader import BOLDFile, load_bold
from nstorm.data.files.writer import save_bold, save_mask
from nstorm.data.time.timing import keep_frames

SHEARED = torch.tensor(
    [[-2.875, 0.25, 0.5, 90.5], [0.25, 3.375, -0.25, -126.0], [0.5, 0.25, 3.875, -72.25], [0, 0, 0, 1]],
    dtype=torch.float64,
)


def make(shape=(6, 3, 4, 5), *, affine=SHEARED, dtype=torch.float32, **meta):
    torch.manual_seed(0)
    return MetaTensor((1000 * torch.randn(shape)).to(dtype), affine=affine, meta={"tr": 0.72, **meta})


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16, torch.int64], ids=str)
@pytest.mark.parametrize("layout", [lambda bold: bold, time_last], ids=["time_first", "time_last"])
def test_there_and_back(tmp_path, ending, dtype, layout):
    bold = make(dtype=dtype)
    path = save_bold(tmp_path / "new" / f"bold{ending}", layout(bold))
    again = load_bold(path, dtype=torch.float64)
    assert torch.equal(again.as_tensor(), bold.as_tensor().double())
    assert torch.equal(again.affine, bold.affine)
    assert again.meta["tr"] == 0.72
    assert list(path.parent.iterdir()) == [path]


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 5), *[st.integers(1, 6)] * 3),
    tr=st.integers(100, 20000).map(lambda ms: ms / 1000),
    turn=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    flip=st.sampled_from([-1, 1]),
)
def test_any_grid_and_any_repetition_time(tmp_path_factory, shape, tr, turn, flip):
    angles = np.array(turn)
    zooms = np.diag([2.0 * flip, 2.5, 3.0])
    affine = np.eye(4, dtype=np.float32)
    affine[:3, :3] = nibabel.eulerangles.euler2mat(*angles) @ zooms
    affine[:3, 3] = 30 * angles
    bold = make(shape, affine=torch.from_numpy(affine.astype(np.float64)))
    bold.meta["tr"] = tr
    again = load_bold(save_bold(tmp_path_factory.mktemp("any") / "bold.nii", bold))
    assert torch.equal(again.as_tensor(), bold.as_tensor())
    assert torch.equal(again.affine, bold.affine)
    assert again.meta["tr"] == tr


def test_header_says_seconds_and_millimetres_and_the_space(tmp_path):
    affine = torch.tensor([[0, 0, -3.0, 90], [2, 0, 0, -126.5], [0, 2.5, 0, -72], [0, 0, 0, 1]], dtype=torch.float64)
    image = nibabel.load(save_bold(tmp_path / "bold.nii.gz", make(affine=affine, space_code=4)))
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert image.header.get_zooms()[3] == np.float32(0.72)
    assert (image.header["sform_code"], image.header["qform_code"]) == (4, 4)
    np.testing.assert_array_equal(image.get_sform(), affine)
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-5)
    assert image.get_data_dtype() == np.float32
    assert BOLDFile(tmp_path / "bold.nii.gz").read().meta["space_code"] == 4


def test_shears_are_in_the_sform_alone(tmp_path):
    path = save_bold(tmp_path / "bold.nii", make(affine=SHEARED))
    header = nibabel.load(path).header
    assert (header["sform_code"], header["qform_code"]) == (2, 0)
    assert torch.equal(load_bold(path).affine, SHEARED)


def test_run_in_milliseconds_comes_back_in_seconds(tmp_path):
    image = nibabel.Nifti1Image(np.arange(48, dtype=np.int16).reshape(2, 3, 4, 2), np.eye(4))
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = 800
    nibabel.save(image, tmp_path / "msec.nii")
    path = save_bold(tmp_path / "sec.nii", load_bold(tmp_path / "msec.nii"))
    assert nibabel.load(path).header.get_zooms()[3] == np.float32(0.8)
    assert load_bold(path).meta["tr"] == 0.8


def test_whole_numbers_keep_their_values_in_an_integer_type(tmp_path):
    bold = make().round()
    path = save_bold(tmp_path / "bold.nii.gz", bold, dtype=torch.int16)
    assert BOLDFile(path).dtype == np.dtype("<i2")
    assert torch.equal(load_bold(path), bold)


@pytest.mark.parametrize("factor", [1.0, 1e4], ids=["fractions", "beyond the type"])
def test_other_numbers_get_a_slope_in_an_integer_type(tmp_path, factor):
    bold = make() * factor
    path = save_bold(tmp_path / "bold.nii.gz", bold, dtype=torch.int16)
    assert BOLDFile(path).dtype == np.dtype("<i2")
    step = (bold.max() - bold.min()) / 65535
    assert (load_bold(path) - bold).abs().max() <= 0.51 * step


def test_numbers_that_an_integer_type_cannot_hold(tmp_path):
    bold = make()
    bold[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinite values, which int16 cannot hold: save it as torch\.float32"):
        save_bold(tmp_path / "bold.nii", bold, dtype=torch.int16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_stored_as_float32(tmp_path, dtype):
    bold = make(dtype=dtype)
    path = save_bold(tmp_path / "bold.nii", bold)
    assert BOLDFile(path).dtype == np.dtype("<f4")
    assert torch.equal(load_bold(path), bold.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.bool])
def test_types_that_nifti_lacks_can_be_asked_for(tmp_path, dtype):
    bold = (make() > 0).float()
    path = save_bold(tmp_path / "bold.nii", bold, dtype=dtype)
    assert BOLDFile(path).dtype == np.dtype("u1" if dtype == torch.bool else "<f4")
    assert torch.equal(load_bold(path), bold)


def test_complex_numbers_are_refused(tmp_path):
    for bold, dtype in ((make(dtype=torch.complex64), None), (make(), torch.complex64)):
        with pytest.raises(ValueError, match=r"to be stored as .*, but a voxel has to be one real number"):
            save_bold(tmp_path / "bold.nii", bold, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_numbers_beyond_float32(tmp_path, dtype):
    bold = make(dtype=torch.float64) * 1e300
    with pytest.raises(ValueError, match=r"values up to .*e\+303, beyond (float32|int16): save it as torch\.float64"):
        save_bold(tmp_path / "bold.nii", bold, dtype=dtype)
    assert torch.equal(load_bold(save_bold(tmp_path / "bold.nii", bold), dtype=torch.float64), bold)


def test_a_run_that_lost_frames_has_no_repetition_time_to_write(tmp_path):
    bold = make()
    scrubbed = keep_frames(bold, torch.tensor([True, True, False, True, True, True]))
    for run, like in ((scrubbed, None), (scrubbed, bold), (scrubbed.as_tensor(), scrubbed)):
        with pytest.raises(ValueError, match="bold has lost frames and those left are not evenly spaced"):
            save_bold(tmp_path / "bold.nii", run, like=like)


def test_long_axis_makes_nifti2(tmp_path):
    path = save_bold(tmp_path / "long.nii", make((32768, 1, 1, 2)))
    assert isinstance(nibabel.load(path), nibabel.Nifti2Image)
    assert load_bold(path).shape == (32768, 1, 1, 2)


def test_output_of_a_network_is_saved_like_its_input(tmp_path):
    bold = make()
    output = torch.randn(1, 3, 4, 5, 2, requires_grad=True)
    again = load_bold(save_bold(tmp_path / "output.nii", output, like=bold))
    assert torch.equal(again.as_tensor(), output.detach()[0].movedim(-1, 0))
    assert torch.equal(again.affine, bold.affine)
    with pytest.raises(ValueError, match=r"frames of \(3, 4, 5\) voxels, but like \(3, 4, 6\)"):
        save_bold(tmp_path / "other.nii", output, like=make((2, 3, 4, 6)))


def test_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"bold is a plain tensor without an affine: pass like= with the run"):
        save_bold(tmp_path / "bold.nii", torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"bold has no repetition time: give it meta\['tr'\] in seconds"):
        save_bold(tmp_path / "bold.nii", MetaTensor(torch.zeros(2, 3, 4, 5)))
    for tr in (0.0, 2000.0, float("nan")):
        with pytest.raises(
            ValueError, match=r"meta\['tr'\] of bold is .* s, which is outside 0\.1 to 20 s: give it in sec"
        ):
            save_bold(tmp_path / "bold.nii", MetaTensor(torch.zeros(2, 3, 4, 5), meta={"tr": tr}))
    with pytest.raises(ValueError, match=r"bold\.mgz does not end in \.nii or \.nii\.gz"):
        save_bold(tmp_path / "bold.mgz", make())
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_there(tmp_path):
    path = save_bold(tmp_path / "bold.nii", make())
    with pytest.raises(FileExistsError, match=r"bold\.nii is there already: .*overwrite=True"):
        save_bold(path, 2 * make())
    assert torch.equal(load_bold(path), make())
    save_bold(path, 2 * make(), overwrite=True)
    assert torch.equal(load_bold(path), 2 * make())


def test_failure_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = save_bold(tmp_path / "bold.nii", make())

    def fill_the_disk(self, name):
        name.write_bytes(b"part")
        raise OSError("No space left on device")

    monkeypatch.setattr(nibabel.Nifti1Image, "to_filename", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        save_bold(path, 2 * make(), overwrite=True)
    assert list(tmp_path.iterdir()) == [path]
    assert torch.equal(load_bold(path), make())


def test_sidecar_above_that_would_contradict(tmp_path):
    (tmp_path / "task-rest_bold.json").write_text(json.dumps({"RepetitionTime": 2.0}))
    path = tmp_path / "func" / "sub-01_task-rest_bold.nii.gz"
    with pytest.raises(
        ValueError, match=r"task-rest_bold\.json gives .* time 2\.0, but the run has 0\.72 s: pass sidec"
    ):
        save_bold(path, make())
    save_bold(path, make(), sidecar=True)
    assert json.loads((path.parent / "sub-01_task-rest_bold.json").read_text()) == {"RepetitionTime": 0.72}
    assert load_bold(path).meta["tr"] == 0.72


def test_mask_there_and_back(tmp_path):
    mask = load_mask(rest_run().mask)
    path = save_mask(tmp_path / "mask.nii.gz", mask)
    image = nibabel.load(path)
    assert (image.shape, image.get_data_dtype()) == (mask.shape[1:], np.uint8)
    again = load_mask(path)
    assert torch.equal(again, mask)
    assert torch.equal(again.affine, mask.affine)


@pytest.mark.parametrize("mask", [torch.ones(1, 2, 3, 4), torch.ones(2, 3, 4) > 0, torch.ones(2, 2, 3, 4) > 0])
def test_no_mask(tmp_path, mask):
    with pytest.raises(ValueError, match=r"but a mask is boolean, \(1, H, W, D\)"):
        save_mask(tmp_path / "mask.nii", MetaTensor(mask))
    with pytest.raises(ValueError, match=r"mask is a plain tensor without an affine: load_mask gives one"):
        save_mask(tmp_path / "mask.nii", torch.ones(1, 2, 3, 4) > 0)
