from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nstorm.data import Study, strided_clips
from nstorm.data.clips.items import run_of
from tests.data.study.trees import write_image, write_mask, write_text

RUN = "{subject}/MNINonLinear/Results/{task}_{dir:LR|RL}/"


@pytest.fixture
def hcp(tmp_path):
    for subject in ("100307", "100408"):
        for run in ("rfMRI_REST1_LR", "rfMRI_REST1_RL", "tfMRI_WM_LR"):
            results = tmp_path / subject / "MNINonLinear" / "Results" / run
            write_image(results / f"{run}.nii")
            write_mask(results / "brainmask_fs.2.nii")
            write_text(results / "Movement_Regressors.txt", "0.1  0.2\n" * 24)
            write_text(results / f"{run}_SBRef.nii")
        write_text(tmp_path / subject / "MNINonLinear" / "Results" / "rfMRI_REST" / "rfMRI_REST.nii")
        write_text(tmp_path / subject / "MNINonLinear" / "T1w.nii")
    write_text(tmp_path / "README.md")
    write_text(tmp_path / ".git" / "config")
    return tmp_path


def test_runs_of_hcp(hcp):
    study = Study.from_pattern(
        hcp,
        RUN + "{task}_{dir}.nii",
        mask=RUN + "brainmask_fs.2.nii",
        confounds=RUN + "Movement_Regressors.txt",
        site="HCP",
    )
    results = hcp / "100408" / "MNINonLinear" / "Results" / "rfMRI_REST1_RL"
    assert len(study) == 6
    assert study[4] == {
        "image": str(results / "rfMRI_REST1_RL.nii"),
        "subject": "100408",
        "session": "",
        "task": "rfMRI_REST1",
        "acquisition": "",
        "direction": "RL",
        "run": "",
        "mask": str(results / "brainmask_fs.2.nii"),
        "confounds": str(results / "Movement_Regressors.txt"),
        "site": "HCP",
    }
    assert run_of(study[4]) == "sub-100408_task-rfMRI_REST1_dir-RL"
    assert study.check(progress=False).problems == ()
    assert len(strided_clips(study, 12)) == 12


@pytest.mark.parametrize(
    ("pattern", "number"),
    [
        (r"{subject:\d{6}}/MNINonLinear/Results/{task}_{dir:LR}/{task}_{dir}.nii", 4),
        ("{subject}/MNINonLinear/Results/{task:rfMRI_.*}_{dir}/{task}_{dir}.nii", 4),
        ("{subject:.*7}/MNINonLinear/Results/{task}_{dir:LR|RL}/{task}_{dir}.nii", 3),
        ("{subject}/MNINonLinear/Results/*/{task}_{dir:LR|RL}.nii", 6),
        ("{subject}/*/Results/{task:tfMRI_WM}_{dir}/{task}_{dir}.nii", 2),
        ("{subject}/MNINonLinear/Results/{task:rfMRI_REST}/{task}.nii", 2),
        ("./{subject}/MNINonLinear/T1w.nii", 2),
    ],
)
def test_fields_that_are_constrained(hcp, pattern, number):
    study = Study.from_pattern(hcp, pattern)
    assert len(study) == number
    assert set(study.subjects) <= {"100307", "100408"}


def test_fields_take_what_bids_names_leave_open(tmp_path):
    write_image(tmp_path / "leipzig" / "sub-01_task-rest_dir-AP_bold.nii")
    (item,) = Study.from_pattern(tmp_path, "{site}/*_bold.nii", mask="/templates/mask.nii")
    assert (item["site"], item["subject"], item["task"], item["direction"]) == ("leipzig", "01", "rest", "AP")
    assert item["mask"] == "/templates/mask.nii"


def test_hidden_files_are_no_runs(tmp_path):
    write_image(tmp_path / "7" / "rest.nii")
    write_text(tmp_path / "7" / "._rest.nii")
    assert len(Study.from_pattern(tmp_path, "{subject}/*.nii")) == 1


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            {"image": "{subject}/MNINonLinear/Results/{task}-{dir}/x.nii"},
            r"100307/MNINonLinear/Results fits so far, but there is no '\{task\}-\{dir\}' in it",
        ),
        ({"image": "{subject}/T1w/Results/{task}/x.nii"}, r"100307 fits so far, but there is no 'T1w' in it"),
        ({"image": "{subject/rest.nii"}, r"'\{subject/rest.nii' is no pattern of paths \(.*\): write fields as"),
        ({"image": "{subject:(}/rest.nii"}, r"is no pattern of paths"),
        ({"image": "{}/rest.nii"}, r"is no pattern of paths"),
        (
            {"image": "{subject}/*/T1w.nii", "mask": "{task}.nii"},
            r"mask has the field 'task', but .* only \['subject'\]",
        ),
        ({"image": "{subject}/*/T1w.nii", "mask": "*.nii"}, r"the pattern of mask has a \*"),
    ],
)
def test_patterns_that_find_nothing(hcp, patterns, message):
    with pytest.raises(ValueError, match=message):
        Study.from_pattern(hcp, **patterns)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="none is no folder"):
        Study.from_pattern(tmp_path / "none", "{subject}.nii")


# no text that ends a field before it ends, and none that a file system folds into another
text = st.text("abc 019+(.é", min_size=1, max_size=6).filter(
    lambda text: not text.startswith(".") and text == text.strip()
)


@settings(max_examples=30, deadline=None)
@given(runs=st.sets(st.tuples(text, text, text), min_size=1, max_size=5))
def test_finds_what_was_written(tmp_path_factory, runs):
    folder = tmp_path_factory.mktemp("study")
    pattern = "s-{subject}/{task}_{site}/[{subject}]_x.nii"
    for subject, task, site in runs:
        write_text(folder / pattern.format(subject=subject, task=task, site=site))
    study = Study.from_pattern(folder, pattern)
    assert {tuple(item[key] for key in ("subject", "task", "site")) for item in study} == runs
    assert all(Path(item["image"]).is_file() for item in study)
