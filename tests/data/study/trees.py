"""Studies on disk whose images are real but tiny."""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import nibabel
import numpy as np

SPACE = "MNI152NLin2009cAsym"


@cache
def _image(shape: tuple[int, ...], tr: float, spacing: float) -> bytes:
    values = np.random.RandomState(0).randint(1, 1000, shape).astype(np.int16)
    image = nibabel.Nifti1Image(values, np.diag([spacing, spacing, spacing, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    if len(shape) == 4:
        image.header["pixdim"][4] = tr
    return image.to_bytes()


def write_image(path: Path, shape: tuple[int, ...] = (5, 4, 3, 24), *, tr: float = 2.0, spacing: float = 3.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_image(shape, tr, spacing))
    return path


def write_mask(path: Path) -> Path:
    return write_image(path, (5, 4, 3))


def write_text(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_confounds(path: Path, num_rows: int = 24) -> Path:
    return write_text(path, "trans_x\ttrans_y\n" + "0.1\t0.2\n" * num_rows)


def write_run(func: Path, recording: str, spaces: Iterable[str] = (f"space-{SPACE}",), *, tr: float = 2.0) -> None:
    """Write all that fMRIPrep writes for a run."""
    write_confounds(func / f"{recording}_desc-confounds_timeseries.tsv")
    for name in ("desc-confounds_timeseries.json", "desc-hmc_boldref.nii"):
        write_text(func / f"{recording}_{name}")
    write_text(func / f"{recording}_space-fsLR_den-91k_bold.dtseries.nii")
    write_text(func / f"{recording}_hemi-L_space-fsaverage5_bold.func.gii")
    for space in spaces:
        stem = f"{recording}_{space}" if space else recording
        write_image(func / f"{stem}_desc-preproc_bold.nii", tr=tr)
        write_text(func / f"{stem}_desc-preproc_bold.json", json.dumps({"RepetitionTime": tr}))
        write_mask(func / f"{stem}_desc-brain_mask.nii")
        write_text(func / f"{stem}_desc-brain_mask.json", "{}")
        write_text(func / f"{stem}_boldref.nii")
        write_text(func / f"._{stem}_desc-preproc_bold.nii")


def write_study(folder: Path, subjects: Iterable[str] = ("01", "02"), **options: Iterable[str]) -> Path:
    """Write what fMRIPrep writes for subjects of two runs, with what is not of interest."""
    write_text(folder / "dataset_description.json", json.dumps({"DatasetType": "derivative"}))
    write_text(folder / "logs" / "CITATION.md")
    for subject in subjects:
        name = f"sub-{subject}"
        write_text(folder / f"{name}.html")
        write_text(folder / name / "figures" / f"{name}_task-rest_run-01_desc-carpetplot_bold.svg")
        write_text(folder / name / "anat" / f"{name}_desc-brain_mask.nii.gz")
        for run in ("01", "02"):
            write_run(folder / name / "func", f"{name}_task-rest_run-{run}", **options)
    return folder
