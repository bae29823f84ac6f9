import json
import os
from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nstorm.data.files.sidecar import inherited_value

STUDY = "study"
LEVELS = (STUDY, f"{STUDY}/sub-01", f"{STUDY}/sub-01/ses-1", f"{STUDY}/sub-01/ses-1/func")
ENTITIES = ("sub-01", "ses-1", "task-rest", "run-1")
NAME = "_".join((*ENTITIES, "bold"))
SUBSETS = list(chain.from_iterable(combinations(ENTITIES, number) for number in range(5)))


def write(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def expected(image, key):
    """The inheritance principle by its words, from all files there are."""
    for folder in list(image.parents)[:4]:
        applicable = {}
        for sidecar in folder.glob("*.json"):
            *entities, suffix = sidecar.stem.split("_")
            if suffix == "bold" and set(entities) <= set(ENTITIES) and key in json.loads(sidecar.read_text()):
                applicable[sidecar] = len(entities)
        if applicable:
            return max(applicable, key=applicable.get)
    return None


@settings(max_examples=40, deadline=None)
@given(
    files=st.lists(
        # in BIDS a file of the whole study names no subject or session
        st.tuples(st.integers(0, 3), st.sampled_from(SUBSETS), st.sampled_from(["RepetitionTime", "TaskName"])).filter(
            lambda file: file[0] > 0 or not set(file[1]) & set(ENTITIES[:2])
        ),
        max_size=8,
        # equally specific ones would have to agree
        unique_by=lambda file: (file[0], len(file[1])),
    )
)
def test_finds_what_the_principle_says(tmp_path_factory, files):
    root = tmp_path_factory.mktemp("tree")
    image = root / LEVELS[3] / f"{NAME}.nii.gz"
    image.parent.mkdir(parents=True)
    for level, entities, key in files:
        write(root / LEVELS[level] / ("_".join((*entities, "bold")) + ".json"), **{key: 2.0})
    found = inherited_value(image, "RepetitionTime")
    assert (found and found[0]) == expected(image, "RepetitionTime")


def test_the_folder_of_a_study_is_not_listed(tmp_path, monkeypatch):
    image = tmp_path / LEVELS[3] / f"{NAME}.nii.gz"
    value = write(tmp_path / STUDY / "task-rest_bold.json", RepetitionTime=1.5)
    write(image.parent / "sub-01_ses-1_task-nback_bold.json", RepetitionTime=1.0)
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listdir(path))
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"{path} is listed"))
    assert inherited_value(image, "RepetitionTime") == (value, 1.5)
    assert listed == [tmp_path / level for level in reversed(LEVELS[1:])]
    own = write(image.parent / f"{NAME}.json", RepetitionTime=2.0)
    listed.clear()
    assert inherited_value(image, "RepetitionTime") == (own, 2.0)
    assert listed == []


@pytest.mark.parametrize("name", ["bold.json", "task-rest_bold.json", "sub-01_run-1_bold.json", f"{NAME}.json"])
def test_all_files_in_one_folder(tmp_path, name):
    write(tmp_path / "sub-02_task-rest_bold.json", RepetitionTime=9.0)
    value = write(tmp_path / name, RepetitionTime=1.5)
    assert inherited_value(tmp_path / f"{NAME}.nii", "RepetitionTime") == (value, 1.5)


def test_names_outside_bids(tmp_path):
    write(tmp_path / "REST1_LR.json", RepetitionTime=9.0)
    assert inherited_value(tmp_path / "rfMRI_REST1_LR.nii.gz", "RepetitionTime") is None
    value = write(tmp_path / "rfMRI_REST1_LR.json", RepetitionTime=0.72)
    assert inherited_value(tmp_path / "rfMRI_REST1_LR.nii.gz", "RepetitionTime") == (value, 0.72)


def test_folders_that_are_not_there(tmp_path):
    assert inherited_value(tmp_path / "sub-1" / "func" / "sub-1_bold.nii", "RepetitionTime") is None
