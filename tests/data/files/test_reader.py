import gzip
import pickle
import re
from io import BytesIO

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nstorm.data.files import nifti
from nstorm.data.files.reader import BOLDFile, load_bold
from nstorm.data.transforms.io import LoadBOLD
from nstorm.data.transforms.rand_load_clip import RandLoadClip

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


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "int64", "uint64", "float32", "float64"]
)
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


@pytest.mark.parametrize("num_frames", [1, 4, 6, 100])
def test_blocks_are_the_run(tmp_path, voxels, num_frames):
    run = BOLDFile(write(tmp_path / "bold.nii.gz", voxels))
    whole = run.read()
    blocks = [(block.clone(), block.meta["start_frame"], block.meta["start_time"]) for block in run.blocks(num_frames)]
    assert torch.equal(torch.cat([values for values, _, _ in blocks]).as_tensor(), whole.as_tensor())
    assert [start for _, start, _ in blocks] == list(range(0, 6, num_frames))
    assert all(time == 2.0 * start for _, start, time in blocks)
    assert torch.equal(blocks[0][0].affine, whole.affine)


def test_blocks_are_checked_to_the_end(tmp_path, voxels):
    path = write(tmp_path / "bold.nii.gz", voxels)
    content = bytearray(path.read_bytes())
    # the checksum
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bold\.nii\.gz is damaged"):
        list(BOLDFile(path).blocks(3))
    broken = voxels.astype(np.float32)
    broken[0, 0, 0, 4] = np.nan
    run = BOLDFile(write(path, broken))
    with pytest.raises(ValueError, match=r"bold\.nii\.gz has NaN values in 1 voxels, in frame 4: pass fill_nan=0"):
        list(run.blocks(3))
    assert [float(block[-1, 0, 0, 0]) for block in run.blocks(5, fill_nan=-1.0)] == [-1.0, float(voxels[0, 0, 0, 5])]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers(tmp_path, voxels, value):
    broken = voxels.astype(np.float32)
    broken[0, 0, 0, 1] = broken[0, 0, 0, 2] = broken[1, 2, 3, 2] = value
    path = write(tmp_path / "holes.nii.gz", broken)
    kind, remedy = ("NaN", "pass fill_nan=0") if np.isnan(value) else ("infinite", "correct the image")
    with pytest.raises(ValueError, match=rf"holes\.nii\.gz has {kind} values in 2 voxels, in frames 1, 2: {remedy}"):
        load_bold(path)
    with pytest.raises(ValueError, match=rf"{kind} values in 2 voxels, in frame 2:"):
        load_bold(path, frames=(2, 4))
    np.testing.assert_array_equal(load_bold(path, frames=(3, 6)), np.moveaxis(broken, 3, 0)[3:])


def test_many_frames_are_not_all_named(tmp_path, voxels):
    broken = np.concatenate([voxels, voxels], axis=3).astype(np.float32)
    broken[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"in 1 voxels, in frames 0, 1, 2, 3, 4 and 7 more: pass fill_nan=0"):
        load_bold(write(tmp_path / "holes.nii", broken))


def test_nan_is_filled_where_asked_and_infinity_is_not(tmp_path, voxels):
    broken = voxels.astype(np.float32)
    broken[0] = np.nan
    bold = load_bold(write(tmp_path / "spm.nii", broken), fill_nan=-1.0)
    broken[0] = -1
    np.testing.assert_array_equal(bold, np.moveaxis(broken, 3, 0))
    broken[0, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match=r"infinite values in 1 voxels, in frame 0: correct the image"):
        load_bold(write(tmp_path / "spm.nii", broken), fill_nan=0.0)


@settings(max_examples=40, deadline=None)
@given(pattern=arrays(bool, SHAPE), fill=st.sampled_from([0.0, -1.0]))
def test_nan_in_any_pattern(tmp_path_factory, pattern, fill):
    values = np.arange(360, dtype=np.float32).reshape(SHAPE)
    filled = np.where(pattern, fill, values)
    assume((filled != filled[..., :1]).any())
    path = write(tmp_path_factory.mktemp("nan") / "spm.nii", np.where(pattern, np.nan, values))
    np.testing.assert_array_equal(load_bold(path, fill_nan=fill), np.moveaxis(filled, 3, 0))
    for frame in range(6):
        if pattern[..., frame].any():
            with pytest.raises(
                ValueError, match=rf"NaN values in {pattern[..., frame].sum()} voxels, in frame {frame}:"
            ):
                load_bold(path, frames=(frame, frame + 1))
        else:
            np.testing.assert_array_equal(load_bold(path, frames=(frame, frame + 1))[0], values[..., frame])


def test_numbers_beyond_float32_are_read_as_float64(tmp_path, voxels):
    large = voxels * 1e300
    path = write(tmp_path / "large.nii", large)
    assert load_bold(path, dtype=torch.float64).dtype == torch.float64
    np.testing.assert_array_equal(load_bold(path, dtype=torch.float64), np.moveaxis(large, 3, 0))
    with pytest.raises(ValueError, match=r"large\.nii has infinite values"):
        load_bold(path)
    with pytest.raises(ValueError, match=r"dtype is torch\.int16, but a run is read as torch\.float32 or"):
        load_bold(path, dtype=torch.int16)


@pytest.mark.parametrize("value", [0, 7])
def test_run_that_does_not_change(tmp_path, value):
    path = write(tmp_path / "blank.nii.gz", np.full(SHAPE, value, np.int16))
    message = (
        rf"blank\.nii\.gz has no voxel that changes over frames 0 to 6 \(their values go from {value} to {value}\)"
    )
    with pytest.raises(ValueError, match=message):
        load_bold(path)
    assert load_bold(path, frames=(2, 3)).shape == (1, 3, 4, 5)


def test_volumes_of_one_image_again_and_again(tmp_path, voxels):
    path = write(tmp_path / "still.nii", np.repeat(voxels[..., :1], 6, axis=3))
    with pytest.raises(ValueError, match=r"still\.nii has no voxel that changes over frames 1 to 4"):
        load_bold(path, frames=(1, 4))


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((3, 4, 5), r"join images of one frame each, as SPM writes them, with nilearn\.image\.concat_imgs"),
        ((3, 4, 5, 6, 3), r"combine the echoes of a multi-echo run"),
        ((3, 4, 5, 1, 6), r"time has become the fifth axis, so take the fourth away \(nibabel's image\.slicer"),
        ((3, 4, 5, 0), r"none of them 0$"),
    ],
)
def test_other_axes(tmp_path, shape, advice):
    image = nibabel.Nifti1Image(np.ones(shape, np.int16), LAS)
    nibabel.save(image, tmp_path / "other.nii")
    with pytest.raises(ValueError, match=rf"has shape \({re.escape(str(shape)[1:-1])}\), but a BOLD run .*{advice}"):
        load_bold(tmp_path / "other.nii")


def test_surfaces(tmp_path):
    cortex = nibabel.cifti2.BrainModelAxis.from_mask(np.ones((2, 2, 2), bool), affine=LAS)
    header = (nibabel.cifti2.SeriesAxis(0, 1, 4), cortex)
    nibabel.save(nibabel.Cifti2Image(np.ones((4, 8)), header=header), tmp_path / "run.dtseries.nii")
    with pytest.raises(
        ValueError, match=r"run\.dtseries\.nii is a Cifti2Image.*: CIFTI keeps .*: give the run's volume"
    ):
        load_bold(tmp_path / "run.dtseries.nii")
    values = nibabel.gifti.GiftiDataArray(np.ones(4, np.float32))
    nibabel.save(nibabel.GiftiImage(darrays=[values]), tmp_path / "run.func.gii")
    with pytest.raises(ValueError, match=r"run\.func\.gii is a GiftiImage.*: GIFTI keeps .*: give the run's volume"):
        load_bold(tmp_path / "run.func.gii")


def test_another_format(tmp_path, voxels):
    path = tmp_path / "bold.mgz"
    nibabel.save(nibabel.MGHImage(voxels.astype(np.float32), LAS), path)
    with pytest.raises(ValueError, match=r"bold\.mgz is a MGHImage, not a NIfTI image: convert it with mri_convert"):
        load_bold(path)
    nibabel.save(nibabel.Spm99AnalyzeImage(voxels, LAS), tmp_path / "old.img")
    with pytest.raises(ValueError, match=r"old\.img is a Spm\w+, not a NIfTI image: export it as \.nii\.gz"):
        load_bold(tmp_path / "old.img")


def test_folder_and_link_to_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder: .* dcm2niix"):
        load_bold(tmp_path)
    (tmp_path / "bold.nii.gz").symlink_to(tmp_path / "annex")
    with pytest.raises(FileNotFoundError, match=r"bold\.nii\.gz is a link to a file that is not there: fetch it"):
        load_bold(tmp_path / "bold.nii.gz")


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_voxels_of_several_numbers(tmp_path, dtype):
    path = write(tmp_path / "bold.nii", np.zeros(SHAPE, dtype))
    with pytest.raises(ValueError, match=r"bold\.nii holds .* one real number: take the magnitude of complex data"):
        load_bold(path)


def test_no_orientation(tmp_path, voxels):
    path = write(tmp_path / "lost.nii", voxels, affine=None)
    with pytest.raises(ValueError, match=r"lost\.nii does not say where its voxels lie .* left and right are unknown"):
        load_bold(path)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_affine_without_volume(tmp_path, voxels, value):
    path = write(tmp_path / "flat.nii", voxels)
    content = bytearray(path.read_bytes())
    content[280:284] = np.array([value], dtype="<f4").tobytes()  # srow_x[0]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"flat\.nii has the affine .*, which gives its voxels no volume"):
        load_bold(path)


def test_left_and_right_that_contradict_each_other(tmp_path, voxels):
    image = nibabel.Nifti1Image(voxels, LAS, nibabel.load(write(tmp_path / "bold.nii", voxels)).header)
    image.set_qform(LAS, 1)
    nibabel.save(image, tmp_path / "bold.nii")
    assert torch.equal(load_bold(tmp_path / "bold.nii").affine, torch.from_numpy(LAS))
    image.set_qform(np.diag([-1, 1, 1, 1]) @ LAS, 1)
    nibabel.save(image, tmp_path / "bold.nii")
    with pytest.raises(
        ValueError, match=r"bold\.nii has a qform that is a mirror image of its sform, so left and right"
    ):
        load_bold(tmp_path / "bold.nii")


@pytest.mark.parametrize(("unit", "name"), [("meter", "metres"), ("micron", "micrometres")])
def test_affine_in_another_unit(tmp_path, voxels, unit, name):
    image = nibabel.Nifti1Image(voxels, LAS, nibabel.load(write(tmp_path / "bold.nii", voxels)).header)
    image.header.set_xyzt_units(unit, "sec")
    nibabel.save(image, tmp_path / "bold.nii")
    sizes = " x ".join(f"{size:g}" for size in nibabel.affines.voxel_sizes(LAS))
    with pytest.raises(
        ValueError, match=rf"bold\.nii gives its affine in {name} .* with voxels of {sizes}, but nstorm"
    ):
        load_bold(tmp_path / "bold.nii")


def test_header_that_announces_more_than_a_gzip_file_can_hold(tmp_path, voxels):
    path = write(tmp_path / "bold.nii.gz", voxels, image_class=nibabel.Nifti2Image)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[24:32] = np.array([1 << 60], "<i8").tobytes()  # dim[1]
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=r"bold\.nii\.gz is damaged .* cannot unpack to the"):
        load_bold(path)


def test_a_run_of_zeros_packs_well(tmp_path):
    blank = np.zeros((64, 64, 32, 8), np.float32)
    blank[0, 0, 0, 1] = 1
    assert load_bold(write(tmp_path / "bold.nii.gz", blank)).sum() == 1


def test_infinite_intercept(tmp_path, voxels):
    path = write(tmp_path / "bold.nii", voxels)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([1, np.inf], dtype="<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bold\.nii is damaged"):
        load_bold(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nii.bz2", ".img"])
def test_frames(tmp_path, voxels, ending):
    image_class = nibabel.Nifti1Pair if ending == ".img" else nibabel.Nifti1Image
    path = write(tmp_path / f"bold{ending}", voxels, image_class=image_class)
    run = BOLDFile(path)
    assert (run.shape, run.num_frames, run.tr, run.dtype) == (SHAPE, 6, 2.0, np.dtype("<i2"))
    assert run.compressed == ending.endswith(("gz", "bz2"))
    np.testing.assert_array_equal(run.affine, LAS)
    for start, stop in [(0, 6), (0, 2), (3, 5), (5, 6)]:
        clip = run.read(start, stop)
        np.testing.assert_array_equal(clip, np.moveaxis(voxels, 3, 0)[start:stop])
        assert clip.meta["start_frame"] == start
        assert clip.meta["start_time"] == 2.0 * start
        assert clip.meta["tr"] == 2.0
        np.testing.assert_array_equal(clip.affine, LAS)
        assert torch.equal(load_bold(path, frames=(start, stop)), clip)
        assert torch.equal(load_bold(path, frames=slice(start, stop)), clip)
    assert torch.equal(load_bold(path, frames=slice(-2, None)), run.read(4))


@pytest.mark.parametrize("frames", [(0, 7), (-1, 3), (3, 3), (4, 2)])
def test_frames_that_are_not_there(tmp_path, voxels, frames):
    path = write(tmp_path / "bold.nii", voxels)
    with pytest.raises(
        ValueError, match=rf"frames {frames[0]} to {frames[1]} of .*bold\.nii are asked for, but it has 6"
    ):
        load_bold(path, frames=frames)


@pytest.mark.parametrize("frames", [[0, 2, 4], [3]])
def test_what_are_no_frames(tmp_path, voxels, frames):
    path = write(tmp_path / "bold.nii", voxels)
    for read in (lambda: LoadBOLD()(path, frames=frames), lambda: RandLoadClip(1)(path, frames=frames)):
        with pytest.raises(
            ValueError, match=r"frames is .* for .*bold\.nii, but it has to be \(start, stop\), two whole"
        ):
            read()


def test_a_range_of_frames(tmp_path, voxels):
    path = write(tmp_path / "bold.nii", voxels)
    assert torch.equal(load_bold(path, frames=range(2, 4)), load_bold(path, frames=(2, 4)))
    with pytest.raises(ValueError, match=r"frames has a step of 2"):
        load_bold(path, frames=range(0, 6, 2))


def test_step_between_frames(tmp_path, voxels):
    with pytest.raises(ValueError, match=r"frames has a step of 2"):
        load_bold(write(tmp_path / "bold.nii", voxels), frames=slice(0, 6, 2))


def test_run_on_disk_is_opened_by_its_header_and_can_be_pickled(tmp_path, voxels):
    path = write(tmp_path / "bold.nii.gz", voxels)
    run = pickle.loads(pickle.dumps(BOLDFile(path)))
    assert repr(run) == f"BOLDFile({str(path)!r}, shape=(3, 4, 5, 6), tr=2)"
    before = run.read()
    before.affine[0, 3] = 1e3
    np.testing.assert_array_equal(run.read().affine, LAS)
    with gzip.open(path) as file:
        start = file.read(400)
    path.write_bytes(gzip.compress(start))
    assert BOLDFile(path).shape == SHAPE
    with pytest.raises(ValueError, match=r"bold\.nii\.gz is damaged"):
        run.read(0, 2)


def test_clip_is_read_without_what_comes_after_it(tmp_path, voxels):
    path = write(tmp_path / "bold.nii", voxels)
    run = BOLDFile(path)
    path.write_bytes(path.read_bytes()[: 352 + 4 * 120])
    np.testing.assert_array_equal(run.read(2, 4), np.moveaxis(voxels, 3, 0)[2:4])
    with pytest.raises(ValueError, match=r"bold\.nii is damaged .*it ends within its voxels"):
        run.read(3, 5)
    with pytest.raises(ValueError, match=r"bold\.nii is damaged .*it has 832 bytes of 1072"):
        BOLDFile(path)


def test_checksum_is_seen_where_the_last_frame_is_read(tmp_path, voxels):
    path = write(tmp_path / "bold.nii.gz", voxels)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # CRC-32
    path.write_bytes(content)
    run = BOLDFile(path)
    assert run.read(1, 4).shape == (3, 3, 4, 5)
    for start in (0, 5):
        with pytest.raises(ValueError, match=r"bold\.nii\.gz is damaged .*CRC"):
            run.read(start, 6)


def test_the_cost_of_gzip_is_said_once_in_a_process(tmp_path, voxels, caplog, monkeypatch):
    monkeypatch.setattr(nifti, "_slowness_was_told", False)
    monkeypatch.setattr(nifti, "_SLOW", 0.0)
    plain = write(tmp_path / "plain.nii", voxels)
    packed = write(tmp_path / "packed.nii.gz", voxels)
    load_bold(plain, frames=(3, 5))
    load_bold(packed, frames=(0, 5))
    assert not caplog.records
    load_bold(packed, frames=(3, 5))
    load_bold(packed, frames=(4, 6))
    (record,) = caplog.records
    assert record.name == "nstorm.data"
    assert f"{packed} is compressed: to read from frame 3" in record.getMessage()
    assert "nstorm.data.decompress" in record.getMessage()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 3, st.integers(2, 6)),
    dtype=st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]),
    order=st.sampled_from("<>"),
    scale=st.sampled_from([(None, None), (1, 0), (0.5, 100), (-0.003, 7.25), (1e-6, 0)]),
    kind=st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]),
    packed=st.booleans(),
    data=st.data(),
)
def test_values_are_nibabels(tmp_path_factory, shape, dtype, order, scale, kind, packed, data):
    stored = data.draw(arrays(dtype, shape, elements=st.integers(0, 127) | st.sampled_from([1, 100])))
    stored.flat[0], stored.flat[-1] = 0, 1
    image = kind(stored, LAS, kind.header_class(endianness=order), dtype=dtype)
    image.header.set_slope_inter(*scale)
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = 720
    path = tmp_path_factory.mktemp("any") / ("bold.nii.gz" if packed else "bold.nii")
    # not by nibabel, which would choose a scale of its own
    image.header.set_data_offset(offset := 352 if kind is nibabel.Nifti1Image else 544)
    image.header.write_to(buffer := BytesIO())
    content = buffer.getvalue().ljust(offset, b"\0") + stored.astype(image.get_data_dtype()).tobytes(order="F")
    path.write_bytes(gzip.compress(content) if packed else content)

    start = data.draw(st.integers(0, shape[3] - 1))
    read = nibabel.load(path)
    np.testing.assert_array_equal(read.dataobj.get_unscaled(), stored)
    expected = np.moveaxis(read.get_fdata(), 3, 0)
    assume(len(expected) - start == 1 or (expected[start:] != expected[start]).any())
    clip = load_bold(path, frames=(start, shape[3]), dtype=torch.float64)
    np.testing.assert_array_equal(clip, expected[start:])
    assert clip.meta["tr"] == 0.72
    narrow = load_bold(path, frames=(start, shape[3]))
    np.testing.assert_array_equal(narrow, expected[start:].astype(np.float32))
