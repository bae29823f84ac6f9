import numpy as np
import pandas as pd
import pytest

from nstorm.data import Study
from tests.data.study.trees import write_text


@pytest.fixture
def study():
    return Study(
        {"image": f"/s/sub-{subject}_ses-{session}_task-rest_bold.nii"}
        for subject in ("01", "02", "11")
        for session in "ab"
    )


def values(study, key):
    return [item[key] for item in study]


@pytest.mark.parametrize("subjects", [["01", "02", "11"], ["sub-01", "sub-02", "sub-11"]])
@pytest.mark.parametrize("column", ["subject", "participant_id", "Subject"])
def test_labels_of_a_frame(study, subjects, column):
    joined = study.join(pd.DataFrame({column: subjects, "age": [20, 30, 40], "sex": list("FMF")}))
    assert values(joined, "age") == [20, 20, 30, 30, 40, 40]
    assert values(joined, "sex") == list("FFMMFF")
    assert all(type(value) is int for value in values(joined, "age"))
    assert "age" not in study[0]


def test_agrees_with_a_merge_of_pandas(study):
    table = pd.DataFrame({"subject": ["02", "11", "01"], "session": ["a", "a", "b"], "score": [0.5, np.nan, 2.0]})
    joined = study.join(table, on=("subject", "session"))
    items = pd.DataFrame([{key: item[key] for key in ("subject", "session")} for item in study])
    np.testing.assert_array_equal(values(joined, "score"), items.merge(table, how="left")["score"])


def test_numbers_for_names():
    study = Study({"image": f"/hcp/{number}.nii", "subject": number} for number in (100307, 100408))
    assert values(study.join(pd.DataFrame({"Subject": [100408, 100307], "IQ": [1, 2]})), "IQ") == [2, 1]
    # an unknown value has made decimals of the column
    assert values(study.join(pd.DataFrame({"Subject": [100408, 100307, np.nan], "IQ": [1, 2, 3]})), "IQ") == [2, 1]


def test_frames_say_what_is_a_number(study):
    frame = pd.DataFrame({"subject": ["01", "02", "11"], "site": ["1", "2", "3"]})
    assert values(study.join(frame), "site")[::2] == ["1", "2", "3"]


def test_two_tables(study, tmp_path):
    first = write_text(tmp_path / "a.tsv", "participant_id\tage\nsub-01\t20\nsub-02\t30\nsub-11\t40\n")
    second = write_text(
        tmp_path / "b.json", '[{"subject": "sub-01", "iq": 99, "age": 20}, {"subject": "11", "iq": null}]'
    )
    joined = study.join(first).join(second)
    assert values(joined, "age") == [20, 20, 30, 30, 40, 40]
    assert repr(values(joined, "iq")) == "[99.0, 99.0, nan, nan, nan, nan]"


def test_values_that_are_not_known(study):
    frame = pd.DataFrame({"subject": ["01", "02"], "age": pd.array([20, None], dtype="Int64"), "sex": ["F", None]})
    joined = study.join(frame)
    assert repr(values(joined, "age")[::2]) == "[20.0, nan, nan]"
    assert values(joined, "sex")[::2] == ["F", "", ""]


@pytest.mark.parametrize(
    ("table", "on", "message"),
    [
        ({"id": ["01"], "age": [1]}, "subject", r"the table has the columns \['id', 'age'\] and lacks subject"),
        ({"subject": ["01"]}, "subject", "has no column but subject"),
        ({0: ["01"], 1: [1]}, "subject", r"has the columns \['0', '1'\] and lacks subject"),
        ({"subject": ["01", "sub-01", "02", "02"], "age": [1, 2, 3, 4]}, "subject", "more than one row for 01, 02: "),
        (
            {"subject": [1, 2], "age": [1, 2]},
            "subject",
            r"no row .* has the subject of a run: it has 1, 2, the study 01,",
        ),
        ({"subject": ["01"], "session": ["c"], "age": [1]}, ("subject", "session"), "it has 01 c, the study 01 a, "),
        ({"subject": ["01"], "task": ["nback"]}, "subject", "gives task 'nback' for .*sub-01.*, whose item has 'rest'"),
    ],
)
def test_tables_that_do_not_fit(study, table, on, message):
    with pytest.raises(ValueError, match=message):
        study.join(pd.DataFrame(table), on=on)


def test_who_has_no_label_and_which_label_has_no_run(study, tmp_path):
    table = write_text(tmp_path / "scores.csv", "subject,score\n01,1\n02,n/a\n77,2\n")
    problems = study.join(table).check(errors="report", ignore=["image"], progress=False).problems
    assert [(problem.kind, problem.files) for problem in problems] == [
        ("label", ("sub-02", "sub-11")),
        ("runs", ("77",)),
    ]
    assert "scores.csv" in str(problems[0])
    # whoever chooses subjects, or some runs, has left the others out on purpose
    for left in (study.join(table).where(subject="01"), study.join(table)[:2]):
        assert left.check(errors="report", ignore=["image"], progress=False).problems == ()
    left = study.join(table).where(session="a").check(errors="report", ignore=["image", "label"], progress=False)
    assert [problem.files for problem in left.problems] == [("77",)]
