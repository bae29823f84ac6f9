import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor

from nstorm.data.clips.items import image_file, listing, run_item, run_of, subject_of, text_of


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


UNKNOWN = ("", None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, "n/a", "nan")


@pytest.mark.parametrize("item", [{}, *({"subject": unknown} for unknown in UNKNOWN)])
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


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("None", "None"),
        ("NA", "NA"),
        (True, "1"),
        (np.int64(3), "3"),
        (2.5, "2.5"),
        (10**30, "1" + "0" * 30),
    ],
)
def test_labels_as_text(value, text):
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("a/b", "sub-a=2Fb"),
        ("..", "sub-.."),
        ("../../etc", "sub-..=2F..=2Fetc"),
        ("Zoé 1", "sub-Zo=C3=A9=201"),
        ("a=b%", "sub-a=3Db=25"),
        ("x-y_z.1+2~", "sub-x-y_z.1+2~"),
    ],
)
def test_names_of_runs_are_names_of_files(tmp_path, subject, name):
    assert run_of({"subject": subject}) == name
    (tmp_path / name).write_text("")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert subject_of({"subject": subject}) == subject


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=5).map(lambda text: f"x{text}x"), unique=True))
def test_no_two_subjects_have_runs_of_one_name(subjects):
    names = {run_of({"subject": subject}) for subject in subjects}
    assert len(names) == len(subjects)
    assert all(re.fullmatch(r"[A-Za-z0-9_.~+=-]+", name) for name in names)


def test_listing():
    assert listing(["b", "a"]) == "a, b"
    assert listing("gfedcba") == "a, b, c, d, e and 2 more"
