import json
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nstorm.data import Study, strided_clips
from tests.data.study.trees import SPACE, write_image, write_mask, write_study, write_text

ROWS = [
    {"image": "a/run.nii", "mask": "a/mask.nii", "subject": "007", "tr": 2.0, "age": 24, "score": 1.5, "group": "x"},
    {"image": "b/run.nii", "mask": "a/mask.nii", "subject": "1", "tr": None, "age": 31, "score": None, "group": None},
]


def write_manifest(folder, ending):
    for name in ("a", "b"):
        write_image(folder / name / "run.nii")
    write_mask(folder / "a" / "mask.nii")
    path = folder / f"runs{ending}"
    if ending == ".json":
        return write_text(path, json.dumps(ROWS))
    unknown = "n/a" if ending == ".tsv" else ""
    pd.DataFrame(ROWS).to_csv(path, sep="\t" if ending == ".tsv" else ",", index=False, na_rep=unknown)
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json"])
def test_the_same_from_three_formats(tmp_path, ending):
    first, second = study = Study.from_manifest(write_manifest(tmp_path, ending))
    assert first == {
        "image": str(tmp_path / "a" / "run.nii"),
        "subject": "007",
        **dict.fromkeys(("session", "task", "acquisition", "direction", "run"), ""),
        "mask": str(tmp_path / "a" / "mask.nii"),
        "tr": 2.0,
        "age": 24,
        "score": 1.5,
        "group": "x",
    }
    assert (second["subject"], second["age"], second["group"]) == ("1", 31, "")
    assert math.isnan(second["score"])
    assert "tr" not in second
    assert isinstance(first["age"], int)
    assert len(strided_clips(study, 12)) == 4
    assert study.check(progress=False).problems == ()


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json"])
def test_written_and_read_again(tmp_path, ending):
    study = Study.from_bids(write_study(tmp_path / "study", ["01", "2"]))
    write_image(tmp_path / "elsewhere" / "run.nii")
    study = Study(
        [*study, {"image": tmp_path / "elsewhere" / "run.nii", "subject": "3", "age": 2.5, "events": "/e.tsv"}]
    )
    path = tmp_path / "study" / f"runs{ending}"
    study.to_manifest(path)
    assert repr(list(Study.from_manifest(path))) == repr(list(study))
    # below the manifest's folder a path is relative: study and manifest can be moved together
    (tmp_path / "study").rename(tmp_path / "moved")
    moved = Study.from_manifest(tmp_path / "moved" / path.name)
    assert moved[0]["image"] == study[0]["image"].replace("/study/", "/moved/")
    assert moved[-1]["image"] == study[-1]["image"]
    assert moved.check(errors="report", ignore=["mask"], progress=False).headers.keys() == {
        one["image"] for one in moved
    }


def test_nothing_is_overwritten_unless_asked(tmp_path):
    study = Study.from_bids(write_study(tmp_path))
    path = tmp_path / "runs.csv"
    study.to_manifest(path)
    with pytest.raises(FileExistsError, match=r"runs\.csv is there already"):
        study[:1].to_manifest(path)
    study[:1].to_manifest(path, overwrite=True)
    assert len(Study.from_manifest(path)) == 1
    with pytest.raises(ValueError, match=r"write a \.csv, \.tsv or \.json file"):
        study.to_manifest(tmp_path / "runs.xlsx")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "2"], [1, 2]),
        (["1", "2.5"], [1.0, 2.5]),
        (["-1e-3", "+4"], [-0.001, 4.0]),
        (["1", "NA"], [1.0, math.nan]),
        (["01", "02"], ["01", "02"]),
        (["1", "02"], ["1", "02"]),
        (["1", "x"], ["1", "x"]),
        (["0", "0.5"], [0.0, 0.5]),
        (["1_0", "2"], ["1_0", "2"]),
        (["inf", "1"], ["inf", "1"]),
        (["N/A", "n/a"], ["", ""]),
        (["x", "nan"], ["x", ""]),
        (["1,5", "2,5"], ["1,5", "2,5"]),
        (["True", "false"], [1, 0]),
        (["TRUE", "NA"], [1.0, math.nan]),
        (["TRUE", "1"], ["TRUE", "1"]),
    ],
)
def test_what_is_a_number(tmp_path, cells, expected):
    lines = ["image\tsubject\tlabel", *(f"{number}.nii\t{number}\t{cell}" for number, cell in enumerate(cells))]
    values = [item["label"] for item in Study.from_manifest(write_text(tmp_path / "runs.tsv", "\n".join(lines)))]
    assert repr(values) == repr(expected)
    assert list(map(type, values)) == list(map(type, expected))


def test_what_a_table_leaves_empty_may_stand_in_the_name(tmp_path):
    text = "image,subject,task\nsub-01_task-rest_bold.nii,,\nsub-02_task-rest_bold.nii,two,nback\n"
    first, second = Study.from_manifest(write_text(tmp_path / "runs.csv", text))
    assert (first["subject"], first["task"]) == ("01", "rest")
    assert (second["subject"], second["task"]) == ("two", "nback")


def test_spaces_around_cells_do_not_count(tmp_path):
    (item,) = Study.from_manifest(write_text(tmp_path / "runs.csv", "image, subject , age, sex\na.nii, 1 , 24, NA\n"))
    assert (item["image"], item["subject"], item["age"], item["sex"]) == (str(tmp_path / "a.nii"), "1", 24, "")


def test_tr_as_text(tmp_path):
    (item,) = Study.from_manifest(write_text(tmp_path / "runs.json", '[{"image": "a.nii", "tr": "0.72"}]'))
    assert item["tr"] == 0.72


def test_names_of_columns(tmp_path):
    text = "image,participant_id,ses,dir,acq,Sex\nx.nii,sub-1,ses-2,LR,mb8,F\n"
    (item,) = Study.from_manifest(write_text(tmp_path / "runs.csv", "\ufeff" + text))
    found = [item[key] for key in ("subject", "session", "direction", "acquisition", "Sex")]
    assert found == ["1", "2", "LR", "mb8", "F"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("runs.csv", "path,subject\na.nii,1\n", r"in the column image \(the columns are \['path', 'subject'\]\)"),
        ("runs.csv", "", "lists no runs"),
        ("runs.csv", "image,subject\n", "lists no runs"),
        ("runs.csv", "image,subject\na.nii,1\n,2\nb.nii,3\n,4\n", r"has no image in 2 rows \(2, 4; 1 is the first"),
        ("runs.csv", "image,tr\na.nii,2\nb.nii,2 s\n", r"has a tr that is no number of seconds in 1 row \(2; "),
        ("runs.json", '[{"image": "a.nii", "tr": -1}]', r"has a tr that is no number of seconds in 1 row \(1; "),
        ("runs.csv", "image,subject\na.nii,1\nb.nii,2,3\n", r"has 2 columns, but not .* \(3 in line 3\)"),
        ("runs.csv", "image,age,age\na.nii,1,2\n", "more than one column for age"),
        ("runs.csv", "image,subject,participant_id\na.nii,1,2\n", "more than one column for subject"),
        ("runs.json", '[{"image": "a.nii", "dir": "LR", "direction": "RL"}]', "more than one column for direction"),
        ("runs.json", '{"image": "a.nii"}', "is no list of objects"),
        ("runs.json", "[{", "is no table"),
        ("runs.json", '[{"image": "a.nii", "age": [1]}]', r"row 1: age is \[1\], but it has to be text or a number"),
        ("runs.xlsx", "", "give a .csv, .tsv or .json file"),
        ("runs.csv", "image;age\na.nii;20,5\n", r"has semicolons between its columns, but a \.csv has commas"),
        ("runs.csv", "image\tage\na.nii\t20\n", r"has tabs between its columns, but a \.csv has commas"),
        ("runs.tsv", "image,age\na.nii,20\n", r"has commas between its columns, but a \.tsv has tabs"),
    ],
)
def test_tables_that_are_none(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        Study.from_manifest(write_text(tmp_path / name, text))


def test_what_spreadsheets_leave_behind(tmp_path):
    text = '"",image,age,,\r\n1,/a.nii,20,,\r\n,,,,\r\n\r\n2,/b.nii,21,,\r\n, ,,,\r\n'
    study = Study.from_manifest(write_text(tmp_path / "runs.csv", "\ufeff" + text))
    assert [(item["image"], item["age"]) for item in study] == [("/a.nii", 20), ("/b.nii", 21)]
    assert "" not in study[0]


def test_no_text(tmp_path):
    (tmp_path / "runs.csv").write_bytes(b"image\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"runs\.csv is no table in UTF-8 \(.*\): correct it"):
        Study.from_manifest(tmp_path / "runs.csv")
    with pytest.raises(FileNotFoundError):
        Study.from_manifest(tmp_path / "none.csv")


def test_json_says_what_is_a_number(tmp_path):
    study = Study([{"image": "/a.nii", "subject": "1", "group": "2", "score": 3}])
    study.to_manifest(tmp_path / "runs.json")
    assert list(Study.from_manifest(tmp_path / "runs.json")) == list(study)


name = st.text("abcé ,\"\t'\n-", min_size=1, max_size=6).map(lambda text: f"x{text}y")
numbers = st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=True, allow_infinity=False))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries({"subject": name, "label": name, "number": numbers}), min_size=1, max_size=5),
    ending=st.sampled_from([".csv", ".tsv", ".json"]),
)
def test_any_study_survives(tmp_path_factory, rows, ending):
    study = Study({"image": f"/{number}.nii", **row} for number, row in enumerate(rows))
    path = tmp_path_factory.mktemp("manifest") / f"runs{ending}"
    study.to_manifest(path)
    expected = [{**item, "number": "" if is_all_nan(rows) else item["number"]} for item in study]
    assert repr(list(Study.from_manifest(path))) == repr(expected)


def is_all_nan(rows):
    return all(row["number"] != row["number"] for row in rows)


@pytest.mark.parametrize("ending", ["csv", "tsv", "json"])
def test_a_study_of_several_resolutions_comes_back_as_it_was(tmp_path, ending):
    study = Study.from_bids(write_study(tmp_path / "tree", spaces=(f"space-{SPACE}_res-2", "space-T1w")))
    study.to_manifest(tmp_path / f"runs.{ending}")
    assert list(Study.from_manifest(tmp_path / f"runs.{ending}")) == list(study)
