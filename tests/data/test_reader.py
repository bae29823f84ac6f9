import gzip

import nibabel
import numpy as np
import pytest
import torch

from nstorm.data import load_bold

LAS = np.array([[-3.0, 0.0, 0.0, 90.0], [0.0, 3.5, 0.0, -120.0], [0.0, 0.0, 4.0, -60.0], [0.0, 0.0, 0.0, 1.0]])
SHAPE = (3, 4, 5, 6)


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.int16)


def write(path, voxels, *, affine=LAS, image_class=nibabel.Nifti1Image, header=None):
    image = image_class(voxels, affine, header)
    if voxels.ndim == 4:
        image.header["pixdim"][4] = 2.0
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_time_comes_first_and_voxels_keep_their_places(tmp_path, voxels, ending):
    path = write(tmp_path / f"bold{ending}", voxels)
    bold = load_bold(str(path))
    assert bold.dtype == torch.float32
    assert bold.is_contiguous()
    np.testing.assert_array_equal(bold.numpy(), np.moveaxis(voxels, 3, 0))
    assert bold.meta["tr"] == 2.0
    assert bold.meta["filename_or_obj"] == str(path)


def test_affine_is_the_images(tmp_path, voxels):
    turn = np.deg2rad(10)
    oblique = np.eye(4)
    oblique[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    for affine in (LAS, oblique @ LAS):
        path = write(tmp_path / "bold.nii", voxels, affine=affine)
        loaded = load_bold(path).affine
        assert loaded.dtype == torch.float64
        np.testing.assert_array_equal(loaded.numpy(), nibabel.load(path).affine)
        np.testing.assert_allclose(loaded.numpy(), affine, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_stored_type_and_byte_order(tmp_path, voxels, dtype, order):
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(dtype)
    path = write(tmp_path / "bold.nii", voxels.astype(dtype), header=header)
    assert nibabel.load(path).get_data_dtype() == np.dtype(dtype).newbyteorder(order)
    np.testing.assert_array_equal(load_bold(path).numpy(), np.moveaxis(voxels, 3, 0))


def test_scaling_is_applied(tmp_path, voxels):
    path = write(tmp_path / "bold.nii", voxels)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([0.5, 100], dtype="<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(content)
    np.testing.assert_array_equal(nibabel.load(path).dataobj.get_unscaled(), voxels)
    np.testing.assert_array_equal(load_bold(path).numpy(), np.moveaxis(voxels, 3, 0) * 0.5 + 100)


def test_nifti2(tmp_path, voxels):
    path = write(tmp_path / "bold.nii", voxels, image_class=nibabel.Nifti2Image)
    np.testing.assert_array_equal(load_bold(path).numpy(), np.moveaxis(voxels, 3, 0))


def test_tr_argument_reaches_meta(tmp_path, voxels):
    assert load_bold(write(tmp_path / "bold.nii", voxels), tr=1.5).meta["tr"] == 1.5


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.nii\.gz"):
        load_bold(tmp_path / "absent.nii.gz")


def test_three_axes(tmp_path, voxels):
    path = write(tmp_path / "mean.nii", voxels[..., 0])
    with pytest.raises(ValueError, match=r"mean\.nii has shape \(3, 4, 5\), but a BOLD run has four axes"):
        load_bold(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_truncated(tmp_path, voxels, ending, part):
    path = write(tmp_path / f"cut{ending}", np.tile(voxels, 10))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=rf"cut\{ending} is damaged or no NIfTI image \(.+\): copy or export"):
        load_bold(path)


def test_damaged_inside(tmp_path, voxels):
    path = write(tmp_path / "flipped.nii.gz", np.tile(voxels, 10))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"flipped\.nii\.gz is damaged"):
        load_bold(path)


@pytest.mark.parametrize("content", [b"", b"x" * 20, b"Not an image. " * 100], ids=["empty", "short", "text"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_no_nifti(tmp_path, content, compress):
    path = tmp_path / ("notes.nii.gz" if compress is gzip.compress else "notes.nii")
    path.write_bytes(compress(content))
    with pytest.raises(ValueError, match=r"notes\.nii(\.gz)? is damaged or no NIfTI image"):
        load_bold(path)


def test_another_format(tmp_path, voxels):
    path = tmp_path / "bold.mgz"
    nibabel.save(nibabel.MGHImage(voxels.astype(np.float32), LAS), path)
    with pytest.raises(ValueError, match=r"bold\.mgz is a MGHImage, not a NIfTI image in one file: export it"):
        load_bold(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers(tmp_path, voxels, value):
    broken = voxels.astype(np.float32)
    broken[0, 0, 0, 1] = broken[0, 0, 0, 2] = broken[1, 2, 3, 2] = value
    path = write(tmp_path / "holes.nii.gz", broken)
    with pytest.raises(
        ValueError, match=r"holes\.nii\.gz has NaN or infinite values in 2 voxels and 2 of its 6 frames"
    ):
        load_bold(path)
