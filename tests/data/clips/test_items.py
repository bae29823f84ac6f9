from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data.clips.items import image_file, listing, run_item, run_of, subject_of


def test_item_of_a_file():
    path = Path("/study/sub-01/sub-01_ses-b_task-nback_run-2_bold.nii.gz")
    item = run_item(path, mask=path.with_name("mask.nii.gz"), age=31.5, run="LR")
    assert item == {
        "image": str(path),
        "subject": "01",
        "session": "b",
        "task": "nback",
        "acquisition": "",
        "direction": "",
        "run": "LR",
        "mask": "/study/sub-01/mask.nii.gz",
        "age": 31.5,
    }


def test_item_of_a_name_outside_bids():
    item = run_item("/hcp/100307/rfMRI_REST1_LR.nii.gz", subject=100307)
    assert (item["subject"], item["session"], item["task"], item["run"]) == (100307, "", "", "")


def test_item_of_a_run_in_memory():
    bold = MetaTensor(torch.zeros(4, 2, 2, 2), meta={"filename_or_obj": "sub-07_task-rest_bold.nii"})
    item = run_item(bold)
    assert item["image"] is bold
    assert (item["subject"], item["task"]) == ("07", "rest")
    assert image_file(item) == "sub-07_task-rest_bold.nii"
    assert run_item(torch.zeros(4, 2, 2, 2))["subject"] == ""


@pytest.mark.parametrize(
    ("subject", "name"), [("01", "01"), ("sub-01", "01"), (7, "7"), ("7", "7"), (7.0, "7"), (" 7 ", "7")]
)
def test_names_of_one_person(subject, name):
    assert subject_of({"subject": subject}) == name
    assert run_of({"subject": subject, "session": "", "task": "rest", "run": 2}) == f"sub-{name}_task-rest_run-2"


@pytest.mark.parametrize(
    "item", [{}, *({"subject": unknown} for unknown in ("", None, float("nan"), np.float32("nan"), pd.NA, "n/a"))]
)
def test_no_subject(item):
    for name in (subject_of, run_of):
        with pytest.raises(ValueError, match=r"the item of a\.nii has no subject: set item\['subject'\]"):
            name({"image": "a.nii", **item})


def test_runs_are_told_apart_by_session_task_and_run():
    item = {"subject": "1", "session": "ses-a", "task": "rest", "run": "1"}
    others = [{**item, key: "other"} for key in item]
    assert len({run_of(each) for each in (item, *others)}) == 5
    assert run_of(item) == run_of({**item, "session": "a", "image": "elsewhere.nii"})


def test_recordings_of_one_task_are_runs_of_their_own_and_versions_of_one_are_not():
    names = ["dir-LR_run-1", "dir-RL_run-1", "acq-645_run-1", "acq-1400_run-1"]
    runs = {run_of(run_item(f"sub-1_task-REST_{name}_bold.nii")) for name in names}
    assert runs == {f"sub-1_task-REST_{name}" for name in names}
    versions = ["echo-1_bold", "space-MNI152NLin6Asym_desc-preproc_bold", "rec-a_bold"]
    assert {run_of(run_item(f"sub-1_task-rest_{name}.nii")) for name in versions} == {"sub-1_task-rest"}


def test_listing():
    assert listing(["b", "a"]) == "a, b"
    assert listing("gfedcba") == "a, b, c, d, e and 2 more"
