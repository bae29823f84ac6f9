import pytest

from nstorm.data import haxby_runs, rest_run
from nstorm.data.files.bids_name import bids_entities


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "/study/sub-9/func/sub-01_ses-02_task-rest_acq-mb8_dir-LR_run-1_echo-2_space-T1w_res-2_desc-preproc_bold.nii.gz",
            {
                "sub": "01",
                "ses": "02",
                "task": "rest",
                "acq": "mb8",
                "dir": "LR",
                "run": "1",
                "echo": "2",
                "space": "T1w",
                "res": "2",
                "desc": "preproc",
                "suffix": "bold",
            },
        ),
        ("sub-01_bold.dtseries.nii", {"sub": "01", "suffix": "bold"}),
        ("sub-A+b_desc-x-y_bold.nii", {"sub": "A+b", "desc": "x-y", "suffix": "bold"}),
        ("sub-01_task-rest.nii", {"sub": "01", "task": "rest"}),
        ("task-rest_bold.json", {"task": "rest", "suffix": "bold"}),
        ("sub-_bold.nii", {}),
        ("rfMRI_REST1_LR.nii.gz", {}),
        ("", {}),
    ],
)
def test_entities(name, expected):
    assert bids_entities(name) == expected


def test_entities_of_the_recordings():
    assert [bids_entities(run.bold)["run"] for run in haxby_runs()] == [f"{number:02d}" for number in range(1, 13)]
    assert bids_entities(rest_run().mask)["suffix"] == "mask"
