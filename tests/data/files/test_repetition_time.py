import json
import re

import nibabel
import numpy as np
import pytest

from nstorm.data.files.repetition_time import repetition_time
from nstorm.data.files.sidecar import write_value

NAME = "sub-01_task-rest_run-1_space-MNI152_desc-preproc_bold.nii.gz"


def header(value, unit="sec"):
    made = nibabel.Nifti1Header()
    made.set_data_shape((2, 2, 2, 2))
    made["pixdim"][4] = value
    made.set_xyzt_units("mm", unit)
    return made


def sidecar(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(("value", "unit"), [(0.72, "sec"), (720, "msec"), (720_000, "usec")])
def test_header_in_its_unit(tmp_path, value, unit):
    assert repetition_time(tmp_path / NAME, header(value, unit)) == 0.72


def test_argument_wins_over_header_and_sidecar(tmp_path):
    sidecar(tmp_path / "bold.json", RepetitionTime=3.0)
    assert repetition_time(tmp_path / NAME, header(2.0), tr=1.5) == 1.5


def test_argument_becomes_a_float(tmp_path):
    assert type(repetition_time(tmp_path / NAME, header(0), tr=np.float64(2))) is float


def test_argument_that_is_no_repetition_time(tmp_path):
    with pytest.raises(
        ValueError, match=rf"tr, as given for .*{re.escape(NAME)}, is nan s, which is outside 0\.1 to 20"
    ):
        repetition_time(tmp_path / NAME, header(2.0), tr=float("nan"))


@pytest.mark.parametrize(
    "name",
    ["bold.json", "task-rest_bold.json", "sub-01_task-rest_bold.json", NAME.replace(".nii.gz", ".json")],
)
def test_sidecar_whose_entities_are_a_subset_applies(tmp_path, name):
    sidecar(tmp_path / name, RepetitionTime=1.4)
    assert repetition_time(tmp_path / NAME, header(0)) == 1.4


@pytest.mark.parametrize("name", ["task-faces_bold.json", "task-rest_echo-1_bold.json", "task-rest_sbref.json"])
def test_sidecar_of_another_image_does_not_apply(tmp_path, name):
    sidecar(tmp_path / name, RepetitionTime=1.4)
    assert repetition_time(tmp_path / NAME, header(2.0)) == 2.0


def test_nearest_folder_wins_and_a_key_is_inherited_where_it_lacks(tmp_path):
    image = tmp_path / "sub-01" / "ses-1" / "func" / NAME
    sidecar(tmp_path / "task-rest_bold.json", RepetitionTime=3.0)
    assert repetition_time(image, header(0)) == 3.0
    sidecar(image.parent / "sub-01_task-rest_bold.json", TaskName="rest")
    assert repetition_time(image, header(0)) == 3.0
    sidecar(tmp_path / "sub-01" / "bold.json", RepetitionTime=1.0)
    assert repetition_time(image, header(0)) == 1.0


def test_most_specific_sidecar_of_a_folder_wins(tmp_path):
    sidecar(tmp_path / "task-rest_bold.json", RepetitionTime=3.0)
    sidecar(tmp_path / "sub-01_task-rest_bold.json", RepetitionTime=1.0)
    assert repetition_time(tmp_path / NAME, header(0)) == 1.0


def test_equally_specific_sidecars_have_to_agree(tmp_path):
    sidecar(tmp_path / "task-rest_bold.json", RepetitionTime=3.0)
    sidecar(tmp_path / "sub-01_bold.json", RepetitionTime=3.0)
    assert repetition_time(tmp_path / NAME, header(0)) == 3.0
    sidecar(tmp_path / "sub-01_bold.json", RepetitionTime=1.0)
    with pytest.raises(
        ValueError, match=r"sub-01_bold\.json and .*task-rest_bold\.json apply equally .* 1\.0 and 3\.0"
    ):
        repetition_time(tmp_path / NAME, header(0))


def test_search_ends_at_the_dataset(tmp_path):
    sidecar(tmp_path / "bold.json", RepetitionTime=3.0)
    sidecar(tmp_path / "dataset" / "dataset_description.json", Name="x")
    assert repetition_time(tmp_path / "dataset" / "sub-01" / NAME, header(2.0)) == 2.0


def test_search_ends_after_three_parents(tmp_path):
    sidecar(tmp_path / "bold.json", RepetitionTime=3.0)
    assert repetition_time(tmp_path / "a" / "b" / "c" / NAME, header(0)) == 3.0
    assert repetition_time(tmp_path / "a" / "b" / "c" / "d" / NAME, header(2.0)) == 2.0


def test_sidecar_of_a_symbolic_link(tmp_path):
    store = tmp_path / "annex" / "objects" / "ab" / "cd"
    store.mkdir(parents=True)
    (store / "MD5E-s1--0.nii.gz").touch()
    sidecar(tmp_path / "dataset" / "bold.json", RepetitionTime=1.4)
    link = tmp_path / "dataset" / NAME
    link.symlink_to(store / "MD5E-s1--0.nii.gz")
    assert repetition_time(link, header(0)) == 1.4


def test_sidecar_of_a_relative_path(tmp_path, monkeypatch):
    sidecar(tmp_path / "bold.json", RepetitionTime=1.4)
    (tmp_path / "func").mkdir()
    monkeypatch.chdir(tmp_path / "func")
    assert repetition_time(type(tmp_path)(NAME), header(0)) == 1.4


@pytest.mark.parametrize("unit", ["unknown", "hz"])
def test_sidecar_stands_in_for_an_unknown_unit(tmp_path, unit):
    sidecar(tmp_path / "bold.json", RepetitionTime=1.4)
    assert repetition_time(tmp_path / NAME, header(2.0, unit)) == 1.4


def test_sidecar_may_differ_from_the_header_by_a_millisecond_at_most(tmp_path):
    path = sidecar(tmp_path / "bold.json", RepetitionTime=2.0009)
    assert repetition_time(tmp_path / NAME, header(2.0)) == 2.0009
    sidecar(path, RepetitionTime=2.0011)
    with pytest.raises(
        ValueError, match=r"gives a repetition time of 2 s and its sidecar .* one of 2\.0011 s"
    ) as error:
        repetition_time(tmp_path / NAME, header(2.0))
    assert str(tmp_path / NAME) in str(error.value)
    assert str(path) in str(error.value)
    assert "pass the right one as tr=" in str(error.value)


def test_sidecar_and_a_header_that_is_no_number_disagree(tmp_path):
    sidecar(tmp_path / "bold.json", RepetitionTime=2.0)
    with pytest.raises(ValueError, match=r"repetition time of nan s and its sidecar"):
        repetition_time(tmp_path / NAME, header(float("nan")))


@pytest.mark.parametrize("unit", ["unknown", "hz"])
def test_unknown_unit(tmp_path, unit):
    message = "gives the repetition time 2 without a unit of time"
    with pytest.raises(ValueError, match=f"{re.escape(NAME)} {message}.*pass tr= in seconds"):
        repetition_time(tmp_path / NAME, header(2.0, unit))
    assert repetition_time(tmp_path / NAME, header(2.0, unit), tr=2.0) == 2.0


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (1.0, "1 is what stands there"),
        (2.0, "tr=2, if these are seconds"),
        (2000.0, "tr=2, if these are milliseconds"),
        (50.0, "tr= in seconds, or"),
    ],
)
def test_unknown_unit_and_what_the_number_may_mean(tmp_path, value, remedy):
    with pytest.raises(ValueError, match=rf"gives the repetition time {value:g} without a unit .*{remedy}"):
        repetition_time(tmp_path / NAME, header(value, "unknown"))


def test_written_value_is_the_first_to_apply(tmp_path):
    sidecar(tmp_path / "task-rest_bold.json", RepetitionTime=3.0)
    own = sidecar(tmp_path / NAME.replace(".nii.gz", ".json"), SkullStripped=False)
    assert write_value(tmp_path / NAME, "RepetitionTime", 1.4) == own
    assert repetition_time(tmp_path / NAME, header(0)) == 1.4
    assert json.loads(own.read_text()) == {"SkullStripped": False, "RepetitionTime": 1.4}
    assert len(list(tmp_path.iterdir())) == 2


def test_missing(tmp_path):
    with pytest.raises(ValueError, match=rf"{re.escape(NAME)} has no repetition time .*: pass tr= in seconds"):
        repetition_time(tmp_path / NAME, header(0))


def test_header_that_looks_like_milliseconds(tmp_path):
    message = r"is 2000 s, which is outside 0\.1 to 20 s: pass .* as tr= in seconds \(tr=2, if these are milliseconds"
    with pytest.raises(ValueError, match=f"header of .*{re.escape(NAME)} {message}"):
        repetition_time(tmp_path / NAME, header(2000))


def test_header_that_was_divided_twice(tmp_path):
    with pytest.raises(
        ValueError, match=r"is 0\.0008 s, which is outside 0\.1 to 20 s: .*tr=0\.8, if it was divided by"
    ):
        repetition_time(tmp_path / NAME, header(0.8, "msec"))


@pytest.mark.parametrize("value", [0.05, -2.0, 25.0, float("nan"), float("inf")])
def test_implausible_header(tmp_path, value):
    with pytest.raises(ValueError, match=rf"is {value:g} s, which is outside 0\.1 to 20 s: pass the right value"):
        repetition_time(tmp_path / NAME, header(value))


def test_implausible_sidecar(tmp_path):
    sidecar(tmp_path / "bold.json", RepetitionTime=2000)
    with pytest.raises(ValueError, match=r"RepetitionTime in .*bold\.json is 2000 s.*tr=2, if these are milliseconds"):
        repetition_time(tmp_path / NAME, header(2.0))


def test_implausible_argument(tmp_path):
    with pytest.raises(ValueError, match=r"tr, as given for .*, is 2000 s.*tr=2, if these are milliseconds"):
        repetition_time(tmp_path / NAME, header(2.0), tr=2000.0)


@pytest.mark.parametrize("value", ["2.0", None, True, [2.0]])
def test_sidecar_value_that_is_no_number(tmp_path, value):
    sidecar(tmp_path / "bold.json", RepetitionTime=value)
    with pytest.raises(ValueError, match=rf"bold\.json is {re.escape(repr(value))}, not a number of seconds"):
        repetition_time(tmp_path / NAME, header(2.0))


@pytest.mark.parametrize(
    ("content", "message"), [("{RepetitionTime: 2}", "is not valid JSON"), ("[2.0]", "holds a JSON list")]
)
def test_sidecar_that_is_no_json_object(tmp_path, content, message):
    (tmp_path / "bold.json").write_text(content)
    with pytest.raises(ValueError, match=rf"bold\.json {message}.*correct or remove it"):
        repetition_time(tmp_path / NAME, header(2.0))
