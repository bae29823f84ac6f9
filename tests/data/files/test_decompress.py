import json

import nibabel
import numpy as np
import pytest
import torch

from nstorm.data.files.decompress import decompress
from nstorm.data.files.reader import BOLDFile


@pytest.fixture
def packed(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 100, (3, 4, 5, 6)).astype(np.int16)
    path = tmp_path / "sub-01" / "sub-01_task-rest_bold.nii.gz"
    path.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1])), path)
    (tmp_path / "task-rest_bold.json").write_text(json.dumps({"RepetitionTime": 0.8}))
    return path


def test_copy_has_the_same_frames_and_the_same_sidecar(packed):
    copy = decompress(packed)
    assert copy == packed.with_name("sub-01_task-rest_bold.nii")
    assert sorted(packed.parent.iterdir()) == [copy, packed]
    plain = BOLDFile(copy)
    assert (plain.compressed, plain.tr) == (False, 0.8)
    assert torch.equal(plain.read(2, 5), BOLDFile(packed).read(2, 5))


def test_copy_in_another_folder_keeps_the_repetition_time(packed, tmp_path):
    copy = decompress(packed, tmp_path / "elsewhere" / "deep" / "deeper" / "deepest")
    assert BOLDFile(copy).tr == 0.8


def test_copy_is_not_overwritten(packed):
    copy = packed.with_name("sub-01_task-rest_bold.nii")
    copy.write_text("mine")
    with pytest.raises(FileExistsError, match=r"sub-01_task-rest_bold\.nii is there already: read it, or remove it"):
        decompress(packed)
    assert copy.read_text() == "mine"


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-20], lambda content: content[:-8] + bytes(8), bytes.lower]
)
def test_damaged_file_leaves_nothing(packed, damage):
    packed.write_bytes(damage(packed.read_bytes()))
    with pytest.raises(ValueError, match=r"bold\.nii\.gz is damaged"):
        decompress(packed)
    assert list(packed.parent.iterdir()) == [packed]


def test_another_ending(packed):
    with pytest.raises(ValueError, match=r"bold\.nii does not end in \.nii\.gz"):
        decompress(packed.with_suffix(""))
