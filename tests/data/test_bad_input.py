"""Bad input gets one clear sentence: the file or argument, the value, and what to do."""

import re

import nibabel
import numpy as np
import pytest
import torch

from nstorm.data import (
    Event,
    brain_mask,
    check_leakage,
    event_clips,
    load_bold,
    load_mask,
    strided_clips,
    zscore_voxels,
)
from nstorm.data.transforms import LoadMaskd

AFFINE = np.diag([-3.0, 3.0, 4.0, 1.0])
SHAPE = (6, 5, 4, 12)


def write(path, voxels=None, *, tr=2.0, unit="sec", affine=AFFINE):
    if voxels is None:
        voxels = np.random.default_rng(0).integers(50, 100, SHAPE).astype(np.float32)
    image = nibabel.Nifti1Image(voxels, affine)
    if voxels.ndim == 4:
        image.header["pixdim"][4] = tr
    image.header.set_xyzt_units("mm", unit)
    image.to_filename(path)
    return path


def noise(value, *places):
    voxels = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    voxels[places] = value
    return voxels


def truncated(folder):
    path = write(folder / "bold.nii.gz")
    path.write_bytes(path.read_bytes()[:-200])
    return load_bold(path)


def bit_flipped(folder):
    path = write(folder / "bold.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0b100
    path.write_bytes(content)
    return load_bold(path)


def cut_short(folder):
    path = write(folder / "bold.nii")
    path.write_bytes(path.read_bytes()[:-40])
    return load_bold(path, frames=(0, 12))


def cifti(folder):
    path = folder / "rest.dtseries.nii"
    axes = nibabel.cifti2.SeriesAxis(0, 2, 3), nibabel.cifti2.ScalarAxis(["a", "b"])
    nibabel.Cifti2Image(np.zeros((3, 2)), axes).to_filename(path)
    return load_bold(path)


def gifti(folder):
    path = folder / "rest.func.gii"
    nibabel.save(nibabel.gifti.GiftiImage(), path)
    return load_bold(path)


def other_mask(folder, voxels, affine=AFFINE):
    run = load_bold(write(folder / "bold.nii"))
    return LoadMaskd("mask")({"image": run, "mask": str(write(folder / "mask.nii", voxels, affine=affine))})


def clips(folder, *events, **options):
    return event_clips(str(write(folder / "bold.nii")), [Event(*event) for event in events], delay=0.0, **options)


far = AFFINE.copy()
far[:3, 3] = 900
BAD = {
    "3D": (lambda f: load_bold(write(f / "t1.nii", np.ones((3, 4, 5), np.float32))), r"t1\.nii has shape \(3, 4, 5\)"),
    "5D": (lambda f: load_bold(write(f / "echoes.nii", np.ones((3, 4, 5, 6, 3), np.float32))), r"echoes\.nii .*echo"),
    "truncated gzip": (truncated, r"bold\.nii\.gz is damaged"),
    "bit-flipped gzip": (bit_flipped, r"bold\.nii\.gz is damaged"),
    "truncated": (cut_short, r"bold\.nii is damaged"),
    "CIFTI": (cifti, r"rest\.dtseries\.nii .*CIFTI"),
    "GIFTI": (gifti, r"rest\.func\.gii .*GIFTI"),
    "NaN": (
        lambda f: load_bold(write(f / "bold.nii", noise(np.nan, 1, 2, 3, 7))),
        r"NaN values in 1 voxels, in frame 7",
    ),
    "Inf": (
        lambda f: load_bold(write(f / "bold.nii", noise(np.inf, 1, 2, 3, 7))),
        r"infinite values in 1 voxels, .* 7",
    ),
    "zero run": (
        lambda f: load_bold(write(f / "bold.nii", np.zeros(SHAPE, np.float32))),
        r"bold\.nii has no voxel that c",
    ),
    "TR 0": (lambda f: load_bold(write(f / "bold.nii", tr=0)), r"bold\.nii has no repetition time .*tr="),
    "TR 0.0008": (lambda f: load_bold(write(f / "bold.nii", tr=0.0008)), r"bold\.nii is 0\.0008 s.*tr=0\.8"),
    "TR 2000": (lambda f: load_bold(write(f / "bold.nii", tr=2000)), r"bold\.nii is 2000 s.*tr=2"),
    "TR without unit": (
        lambda f: load_bold(write(f / "bold.nii", unit="unknown")),
        r"bold\.nii .* without a unit.*tr=",
    ),
    "empty mask": (lambda f: load_mask(write(f / "mask.nii", np.zeros((6, 5, 4), np.uint8))), r"mask\.nii"),
    "4D mask": (lambda f: load_mask(write(f / "mask.nii")), r"mask\.nii has shape \(6, 5, 4, 12\)"),
    "mask elsewhere": (lambda f: other_mask(f, np.ones((6, 5, 4), np.uint8), far), r"mask\.nii"),
    "mask of another grid": (
        lambda f: zscore_voxels(load_bold(write(f / "bold.nii")), torch.ones(6, 5, 3, dtype=torch.bool)),
        r"mask has shape \(6, 5, 3\)",
    ),
    "no brain": (lambda f: brain_mask(load_bold(write(f / "bold.nii"))[:, :1, :1, :1] * 0), r"bold|mask|brain"),
    "event beyond the run": (lambda f: clips(f, (20.0, 8.0, "face")), r"'face' at 20 s.*24 s"),
    "overlapping events": (
        lambda f: clips(f, (2.0, 8.0, "face"), (6.0, 8.0, "house")),
        r"'face' at 2 s.*'house' at 6 s",
    ),
    "unknown label": (lambda f: clips(f, (2.0, 8.0, "face"), labels=["house"]), r"'face' at 2 s .*\['house'\]"),
    "clip longer than the run": (lambda f: strided_clips(str(write(f / "bold.nii")), 13), r"bold\.nii has 12 frames"),
    "a subject on both sides": (
        lambda f: check_leakage(
            train=[{"image": "a.nii", "subject": "01"}], test=[{"image": "b.nii", "subject": "01"}]
        ),
        r"01.*train.*test|train.*test.*01",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_one_clear_sentence(tmp_path, case):
    call, named = BAD[case]
    with pytest.raises(ValueError, match=named) as raised:
        call(tmp_path)
    sentence = str(raised.value)
    assert re.search(named, sentence)
    assert "\n" not in sentence
    assert ":" in sentence, "what to do stands after a colon"
    assert len(sentence.replace(str(tmp_path), "")) < 320


def test_voxels_that_do_not_vary_are_no_numbers_to_divide_by(tmp_path):
    voxels = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    voxels[2] = 7.0
    bold = zscore_voxels(load_bold(write(tmp_path / "bold.nii", voxels)))
    assert bold.isfinite().all()
    assert (bold[:, 2] == 0).all()
    assert (bold[:, 3].std(0, correction=0) - 1).abs().max() < 1e-5


def test_a_sound_file_passes_the_same_checks(tmp_path):
    assert load_bold(write(tmp_path / "bold.nii.gz")).shape == (12, 6, 5, 4)
