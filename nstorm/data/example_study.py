"""The shipped recordings as a study on disk, to try things on."""

import json
import shutil
from os import PathLike
from pathlib import Path

from nstorm.data.embedded import haxby_runs, rest_run
from nstorm.data.files.reader import BOLDFile, load_bold
from nstorm.data.files.writer import save_mask
from nstorm.data.normalize import voxels_that_vary
from nstorm.data.time.timing import with_meta

_PARTICIPANTS = "participant_id\trecording\nsub-001\tHaxby et al. 2001\nsub-RAPIDTIDETEST\trapidtide\n"


def example_study(folder: str | PathLike[str]) -> Path:
    """Write the recordings that ship with nstorm as fMRIPrep leaves a study.

    There are two subjects: one with twelve task runs in native space and their events, of which half a slice is left
    (:func:`nstorm.data.haxby_runs`), and one with a run at rest in MNI152 space (:func:`nstorm.data.rest_run`). Their
    grids and repetition times differ, as in studies that are put together.

    Args:
        folder: The raw study; it is made, and must not be there. Derivatives lie in ``derivatives/fmriprep`` below.

    Returns:
        The folder of the derivatives.

    Raises:
        FileExistsError: The folder is there already.

    Example:
        >>> import tempfile
        >>> from nstorm.data import Study, example_study
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     study = Study.from_bids(example_study(f"{folder}/study"))
        >>> len(study), study.subjects
        (13, ('001', 'RAPIDTIDETEST'))
    """
    raw = Path(folder)
    raw.mkdir(parents=True)
    derivatives = raw / "derivatives" / "fmriprep"
    derivatives.mkdir(parents=True)
    for tree, kind in ((raw, "raw"), (derivatives, "derivative")):
        description = {"Name": "Recordings that ship with nstorm", "BIDSVersion": "1.10.0", "DatasetType": kind}
        (tree / "dataset_description.json").write_text(json.dumps(description, indent=2))
    (raw / "participants.tsv").write_text(_PARTICIPANTS)

    for run in haxby_runs():
        recording = run.events.name.removesuffix("_events.tsv")
        func = _func(derivatives, recording)
        _copy_bold(run.bold, func / f"{recording}_desc-preproc_bold")
        bold = load_bold(run.bold)
        mask = with_meta(voxels_that_vary(bold)[None], bold, tr=None, start_frame=None, start_time=None)
        save_mask(func / f"{recording}_desc-brain_mask.nii.gz", mask)
        shutil.copyfile(run.events, _func(raw, recording) / run.events.name)

    rest = rest_run()
    recording = "sub-RAPIDTIDETEST_task-rest"
    stem = _func(derivatives, recording) / f"{recording}_space-MNI152_res-4"
    _copy_bold(rest.bold, Path(f"{stem}_desc-preproc_bold"))
    shutil.copyfile(rest.mask, f"{stem}_desc-brain_mask.nii.gz")
    return derivatives


def _func(tree: Path, recording: str) -> Path:
    func = tree / recording.partition("_")[0] / "func"
    func.mkdir(parents=True, exist_ok=True)
    return func


def _copy_bold(source: Path, stem: Path) -> None:
    shutil.copyfile(source, f"{stem}.nii.gz")
    Path(f"{stem}.json").write_text(json.dumps({"RepetitionTime": BOLDFile(source).tr}))
