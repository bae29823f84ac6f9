import math
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.data.dataset import Dataset

from nstorm.data import Study, check_leakage, event_clips, haxby_runs, split_by_subject, strided_clips
from nstorm.data.transforms import LoadBOLDd
from tests.data.study.trees import SPACE, write_run, write_study, write_text


@pytest.fixture
def study(tmp_path):
    folder = write_study(tmp_path, [f"{number:02d}" for number in range(1, 11)])
    rows = [f"sub-{number:02d}\t{20 + number}\t{'FM'[number % 2]}\t{number % 3}" for number in range(1, 11)]
    write_text(folder / "participants.tsv", "\n".join(["participant_id\tage\tsex\tsite", *rows]))
    return Study.from_bids(folder)


def test_a_sequence_of_items(study):
    assert len(study) == 20
    assert [item["run"] for item in study[:3]] == ["01", "02", "01"]
    assert isinstance(study[:3], Study)
    assert study[-1]["subject"] == "10"
    assert study.subjects == tuple(f"{number:02d}" for number in range(1, 11))
    with pytest.raises(IndexError):
        study[20]


def test_items_are_copies(study):
    study[0]["subject"] = "changed"
    for item in study:
        item.clear()
    assert study[0]["subject"] == "01"


def test_clips_splits_and_datasets_take_it(study):
    clips = strided_clips(study, 12)
    assert len(clips) == 40
    split = split_by_subject(study, {"train": 0.6, "test": 0.4}, stratify="sex")
    parts = split.apply(study)
    assert len(parts["train"]) == 12
    assert {item["subject"] for item in parts["test"]} == set(split["test"])
    check_leakage(**parts)
    check_leakage(train=study.where(subject=split["train"]), test=study.where(subject=split["test"]))
    loaded = Dataset(study, LoadBOLDd("image"))[3]
    assert loaded["image"].shape == (24, 5, 4, 3)
    batch = torch.utils.data.default_collate([{**item, "image": 0} for item in study])
    assert batch["age"].tolist()[:3] == [21, 21, 22]


def test_events_go_with_their_run():
    study = Study({"image": run.bold, "events": run.events} for run in haxby_runs())
    assert len(event_clips(study, delay=0.0)) == 96


def test_studies_are_put_together(tmp_path, study):
    other = Study([{"image": tmp_path / "x.nii", "subject": "hcp-1", "site": "7", "events": "/e.tsv", "tr": 0.72}])
    both = Study([*study, *other])
    assert len(both) == 21
    assert {frozenset(item) - {"events", "tr"} for item in both} == {frozenset(study[0]) | {"site"}}
    assert both[-1]["mask"] == ""
    assert both[-1]["age"] != both[-1]["age"]
    assert [("tr" in item, "events" in item) for item in both[-2:]] == [(False, False), (True, True)]


def test_it_can_be_pickled(study):
    again = pickle.loads(pickle.dumps(study))
    assert list(again) == list(study)
    assert repr(again) == repr(study)


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        ({"task": "rest"}, 20),
        ({"run": 1}, 10),
        ({"run": ["01", "2"]}, 20),
        ({"subject": ["sub-01", "02", 10]}, 6),
        ({"subjects": "01"}, 2),
        ({"age": 25}, 2),
        ({"age": [25.0, "26"]}, 4),
        ({"age": lambda age: age > 25}, 10),
        ({"sex": "F", "site": {0, 1}}, 6),
        ({"site": range(2)}, 14),
        ({"session": ""}, 20),
        ({"session": None, "space": SPACE}, 20),
        ({"sub": "03", "dir": ""}, 2),
    ],
)
def test_where(study, wanted, number):
    assert len(study.where(**wanted)) == number


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"tusk": "rest"}, "the runs have no tusk: choose among image, subject, session, task"),
        ({"task": "rset"}, "no run has all of task='rset': choose among task: 'rest'"),
        ({"subject": 1}, "choose among subject: '01', '02', .* and "),
        ({"sex": "F", "subject": "01"}, "no run has all of sex='F', subject='01'"),
    ],
)
def test_where_nothing_is_left(study, wanted, message):
    if wanted == {"subject": 1}:
        study = Study([*study, *({"image": f"/{n}.nii", "subject": f"x{n}"} for n in range(9))])
    with pytest.raises(ValueError, match=message):
        study.where(**wanted)


def test_runs_that_are_none():
    with pytest.raises(ValueError, match="runs is empty"):
        Study([])
    with pytest.raises(KeyError, match=r"only the keys \['subject'\]"):
        Study([{"subject": "1"}])
    with pytest.raises(ValueError, match="the image of a run is a Tensor, but the runs of a study are files"):
        Study([{"image": torch.zeros(2, 2, 2, 2)}])


def test_summary(tmp_path, study):
    assert repr(study).splitlines() == [
        "Study of 20 runs of 10 subjects",
        "  task       rest (20)",
        "  run        01 (10), 02 (10)",
        f"  space      {SPACE} (20)",
        "  desc       preproc (20)",
        "  mask       20 of 20 runs",
        "  confounds  20 of 20 runs",
        "  sidecar    20 of 20 runs",
        "  age        21 to 30; 10 of 10 subjects",
        "  sex        F (5), M (5); 10 of 10 subjects",
        "  site       1 (4), 0 (3), 2 (3); 10 of 10 subjects",
        "  tr         not read: check() reads the headers",
    ]
    write_run(tmp_path / "sub-77" / "ses-b" / "func", "sub-77_ses-b_task-nback")
    lines = repr(Study({**item, "tr": 0.8} for item in Study.from_bids(tmp_path))).splitlines()
    assert lines[0] == "Study of 21 runs of 11 subjects"
    assert "  session    b (1)" in lines
    assert "  task       rest (20), nback (1)" in lines
    assert "  age        21 to 30; 10 of 11 subjects" in lines
    assert "  tr         0.8 (21)" in lines


def test_it_reads_no_image(study, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a file is opened")

    folder = Path(study[0]["image"]).parents[2]
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("nibabel.load", refuse)
    found = Study.from_bids(folder, participants=False)
    assert len(found.where(run=1)) == 10
    assert "20 runs of 10 subjects" in repr(found)


def test_values_are_text_and_numbers(tmp_path):
    frame = pd.DataFrame(
        {
            "subject": ["1", "2", "3"],
            "count": np.array([1, 2, 3], np.int16),
            "share": np.array([0.5, np.nan, 1], np.float32),
            "smokes": [True, False, True],
            "drinks": pd.array([True, None, False], dtype="boolean"),
            "scanned": pd.to_datetime(["2020-01-01", None, "2021-01-01"]),
            "drug": ["None", "NA", None],
            "ward": ["a", 7, 7.0],
        }
    )
    study = Study({"image": tmp_path / f"{n}.nii", "subject": n, "left": np.bool_(n > 1)} for n in (1, 2, 3)).join(
        frame
    )
    assert {type(value) for item in study for value in item.values()} == {str, int, float}
    found = {label: [item[label] for item in study] for label in frame.columns[1:]}
    assert repr(found) == repr(
        {
            "count": [1, 2, 3],
            "share": [0.5, math.nan, 1.0],
            "smokes": [1, 0, 1],
            "drinks": [1.0, math.nan, 0.0],
            "scanned": ["2020-01-01 00:00:00", "", "2021-01-01 00:00:00"],
            "drug": ["None", "NA", ""],
            "ward": ["a", "7", "7"],
        }
    )
    assert [item["left"] for item in study] == [0, 1, 1]
    assert study.where(smokes=True, drug="None").subjects == ("1",)
    for ending in (".json", ".tsv"):
        study.to_manifest(tmp_path / f"runs{ending}")
    assert repr(list(Study.from_manifest(tmp_path / "runs.json"))) == repr(list(study))
    # a cell NA has no value
    assert [item["drug"] for item in Study.from_manifest(tmp_path / "runs.tsv")] == ["None", "", ""]


@pytest.mark.parametrize("value", [[1, 2], (1, 2), {"a": 1}, np.zeros(2), torch.zeros(2)])
def test_labels_of_several_values(value):
    with pytest.raises(ValueError, match=rf"score is a {type(value).__name__} in row 2, but it has to be"):
        Study([{"image": "a.nii", "score": 1}, {"image": "b.nii", "score": value}])


def test_a_part_shares_its_items(study):
    # a part of a large study costs no copy of what it holds
    assert all(part is whole for part, whole in zip(study[:5]._runs, study._runs, strict=False))
