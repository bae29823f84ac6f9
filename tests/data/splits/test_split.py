import json
import logging
import pickle
import re

import pytest

from nstorm.data.splits.split import Split

PARTS = {"train": ["c", "a"], "test": ["b"]}


def items(*subjects):
    return [{"image": f"{subject}.nii", "subject": subject} for subject in subjects]


def test_split_is_what_it_holds():
    split = Split(PARTS, seed=3)
    assert split["train"] == ("a", "c")
    assert split == Split({"test": ("b",), "train": ("a", "c")}, seed=3)
    assert split != Split(PARTS, seed=4)
    assert pickle.loads(pickle.dumps(split)) == split
    assert PARTS == {"train": ["c", "a"], "test": ["b"]}


@pytest.mark.parametrize(
    ("parts", "unit", "message"),
    [
        (
            {"train": ["a"], "test": ["b", "a"]},
            "subject",
            "the subject 'a' is in 'train' and in 'test': keep",
        ),
        ({"train": ["a", "a"]}, "run", "the run 'a' is in 'train' and in 'train'"),
        ({"train": ["a"], "test": []}, "subject", "the part 'test' has no subject: give it one or more"),
        ({"train": ["a"]}, "clip", "unit is 'clip', but a split holds apart one of subject, run"),
    ],
)
def test_what_is_no_split(parts, unit, message):
    with pytest.raises(ValueError, match=message):
        Split(parts, unit)


def test_subjects_may_be_named_as_in_a_table_of_participants():
    assert Split({"train": ["sub-b", "a"]}) == Split({"train": ["a", "b"]})
    with pytest.raises(ValueError, match="the subject 'a' is in 'train' and in 'test'"):
        Split({"train": ["a"], "test": ["sub-a"]})


def test_items_are_sorted_into_parts_in_their_order():
    given = items("c", "sub-b", "a", "c")
    assert Split(PARTS).apply(given) == {"train": [given[0], given[2], given[3]], "test": [given[1]]}


def test_runs_are_sorted_into_parts():
    split = Split({"train": ["sub-a_run-1"], "test": ["sub-a_run-2"]}, "run")
    given = [{"image": "x.nii", "subject": "a", "run": run} for run in "212"]
    assert split.apply(given) == {"train": [given[1]], "test": [given[0], given[2]]}


def test_items_that_the_split_does_not_know():
    message = re.escape("2 subjects of the items are not in the split (x, y): leave their items out, or make a new")
    with pytest.raises(ValueError, match=message):
        Split(PARTS).apply(items("a", "y", "x", "x"))
    with pytest.raises(ValueError, match=r"image without a file has no subject"):
        Split(PARTS).apply([{}])


def test_subjects_without_items_are_reported(caplog):
    with caplog.at_level(logging.WARNING, "nstorm.data"):
        assert Split(PARTS).apply(items("a", "b"))["test"] == items("b")
    assert caplog.messages == ["1 of the 2 subjects of 'train' have no item: c"]


def test_saved_split_is_the_same(tmp_path):
    split = Split(PARTS, "run", "by hand, in Göttingen", 5)
    path = tmp_path / "split.json"
    split.save(path)
    assert Split.load(path) == split
    assert Split.load(path).sha256 == split.sha256
    assert [file.name for file in tmp_path.iterdir()] == ["split.json"]
    split.save(path)
    with pytest.raises(FileExistsError, match=r"split\.json holds something else than this split: give another name"):
        Split(PARTS).save(path)
    assert Split.load(path) == split


def test_hash_is_of_the_content():
    """Splits that were saved have to load for ever."""
    assert Split(PARTS, seed=3).sha256 == "e12606689e8d38004b0aa8ffc790ccf8ba2255e5de5c8b6aa395920d42cf5cbe"
    assert Split({"test": ["b"], "train": ["a", "c"]}, seed=3).sha256 == Split(PARTS, seed=3).sha256


@pytest.mark.parametrize(
    ("key", "value"),
    [("parts", {"train": ["a", "b"], "test": ["c"]}), ("seed", 4), ("method", "x"), ("unit", "run"), ("sha256", "0")],
)
def test_edits_are_refused(tmp_path, key, value):
    path = tmp_path / "split.json"
    Split(PARTS, seed=3).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match=r"split\.json was changed after it was saved .* take the original file"):
        Split.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": "0"}', '{"sha256": "0", "parts": {}, "more": 1}', "\xff"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "split.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"split\.json is no split of nstorm .*: write one with Split\.save"):
        Split.load(path)
    with pytest.raises(FileNotFoundError):
        Split.load(tmp_path / "absent.json")
