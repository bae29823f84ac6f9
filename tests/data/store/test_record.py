import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nstorm.data.store.place import Place
from nstorm.data.store.record import NAME, SCHEMA, RunRecord, check_key, days_since, new_attempt
from tests.data.store.runs import put


@pytest.fixture
def record(tmp_path):
    return put(Place(tmp_path), labels={"subject": "1", "age": 24.5, "site": "Zürich"})


def test_there_and_back(record):
    assert RunRecord.from_json(record.to_json(), "here") == record


@settings(max_examples=50)
@given(labels=st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.floats(allow_infinity=False))))
def test_any_label_there_and_back(labels):
    record = RunRecord(
        "k", new_attempt(), "a", labels, 1, 1, (1, 1, 1), ((1.0,) * 4,) * 4, 1.0, 0.0, "int8", (), 2, {}, "", {}
    )
    again = RunRecord.from_json(record.to_json(), "here").labels
    assert again.keys() == labels.keys()
    for name, value in labels.items():
        assert again[name] == value or (math.isnan(value) and math.isnan(again[name]))


@pytest.mark.parametrize("label", [math.inf, object(), [math.nan], {1, 2}])
def test_labels_that_json_does_not_have(record, label):
    with pytest.raises(ValueError, match="record of sub-1 cannot be written"):
        replace(record, labels={"odd": label}).to_json()


def test_a_flipped_bit_is_seen(record):
    content = record.to_json()
    for place in range(len(content)):
        for bit in (0, 3):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            if json_of(flipped) == json.loads(content):
                continue
            with pytest.raises(ValueError, match=r"here (is damaged|has schema version)"):
                RunRecord.from_json(bytes(flipped), "here")


def json_of(content):
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"1", b"null", b"\xff\xfe", b'{"format": "other"}'])
def test_something_else(content):
    with pytest.raises(ValueError, match="here is damaged or no record"):
        RunRecord.from_json(content, "here")


def test_another_version(record):
    content = record.to_json().replace(b'"schema": 1', b'"schema": 2')
    with pytest.raises(ValueError, match=rf"schema version 2, but this nstorm reads version {SCHEMA}"):
        RunRecord.from_json(content, "here")


def test_names_of_attempts_sort_by_time():
    attempts = [new_attempt() for _ in range(20)]
    assert len(set(attempts)) == 20
    assert [name.split("-")[0] for name in attempts] == sorted(name.split("-")[0] for name in attempts)
    assert 0 <= days_since(attempts[0]) < 0.01
    assert days_since("20200101T000000000000Z-00000000") > 2000


@pytest.mark.parametrize("key", ["sub-1", "sub-01_ses-a=2Fb_task-rest.x_run-1", "a" * 200])
def test_keys_that_files_can_have(key):
    check_key(key)
    assert NAME.fullmatch(f"{key}.{new_attempt()}.json")["key"] == key


@pytest.mark.parametrize("key", ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "é", "a*", "a?", "a\n", "a" * 201])
def test_keys_that_files_cannot_have(tmp_path, key):
    with pytest.raises(ValueError, match=r"a run cannot have the name .* in a store: it takes"):
        put(Place(tmp_path), key)
    assert not list(tmp_path.iterdir())
