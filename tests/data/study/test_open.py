import pytest

from nstorm.data import Study
from nstorm.data.study.open import open_study
from tests.data.study.trees import SPACE, write_study, write_text


@pytest.fixture
def folder(tmp_path):
    return write_study(tmp_path / "fmriprep", ["01", "02", "03"], spaces=["space-T1w", f"space-{SPACE}"])


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        ({}, 12),
        ({"space": SPACE, "task": None, "subjects": None}, 6),
        ({"space": SPACE, "subjects": ["sub-01", "02"]}, 4),
        ({"subject": "01", "run": 1}, 2),
        ({"sub": "01", "dir": "", "desc": "preproc", "space": "T1w"}, 2),
    ],
)
@pytest.mark.parametrize("ending", [None, ".csv", ".tsv", ".json"])
def test_the_same_runs_from_a_folder_and_a_manifest(folder, ending, wanted, number):
    path = folder
    if ending is not None:
        path = folder / f"runs{ending}"
        Study.from_bids(folder).to_manifest(path)
    study = open_study(path, **wanted)
    assert len(study) == number
    assert list(study) == list(open_study(str(folder), **wanted))


def test_subjects_who_are_asked_for_are_reported(folder):
    Study.from_bids(folder).to_manifest(folder / "runs.csv")
    for path in (folder, folder / "runs.csv"):
        study = open_study(path, subjects=["01", "77"], space="T1w")
        (problem,) = study.check(errors="report", progress=False).problems
        assert (problem.kind, problem.files) == ("runs", ("sub-77",))


def test_other_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="none is not there: give a BIDS folder, or a manifest"):
        open_study(tmp_path / "none")
    with pytest.raises(ValueError, match=r"runs\.xlsx is neither a BIDS folder nor a manifest \(\.csv, "):
        open_study(write_text(tmp_path / "runs.xlsx"))
    with pytest.raises(ValueError, match=r"others, as the HCP's, are for patterns \(Study\.from_pattern\)"):
        open_study(tmp_path)
