import os
import pickle
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import zarr

from nstorm.data.store.store import INDEX, MARKER, Store
from nstorm.data.store.write import relabel
from tests.data.store.runs import put


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(tmp_path / "store" if request.param == "local" else f"memory://{tmp_path.name}", create=True)


def reopened(store):
    return Store(store.place.url)


def test_runs_by_their_names(store):
    for key in ("sub-2", "sub-1"):
        put(store, key, labels={"subject": key, "age": float("nan")})
    assert len(store) == 0
    store.refresh()
    assert list(store) == ["sub-1", "sub-2"]
    assert "sub-2" in store
    assert "sub-3" not in store
    assert 3 not in store
    with pytest.raises(KeyError, match=r"has no run 'sub-3'; it has sub-1, sub-2"):
        store["sub-3"]
    assert store.get("sub-3") is None
    assert repr(reopened(store)) == f"Store of 2 runs, 100 frames, in {store.place}"


def test_items(store):
    put(store, labels={"subject": "1", "age": float("nan"), "tr": 99.0})
    store.refresh()
    (item,) = store.run_items()
    assert item["image"] == f"{store.place}/{store.records['sub-1'].folder}"
    assert (item["subject"], item["num_frames"], item["tr"]) == ("1", 50, 1.5)
    assert np.isnan(item["age"])


def test_the_later_attempt_counts(store):
    put(store, seed=0)
    store.refresh()
    before = store["sub-1"]
    put(store, seed=1)
    store.refresh()
    assert len(store) == 1
    # a reader of the former is not disturbed
    assert not np.array_equal(before.read_brain(), store["sub-1"].read_brain())


def test_other_labels_for_the_same_frames(store):
    record = put(store, labels={"age": 24})
    relabel(store.place, record, {"age": 25, "site": "Leipzig"})
    store.refresh()
    assert store.records["sub-1"].labels == {"age": 25, "site": "Leipzig"}
    assert store["sub-1"].name == f"{store.place}/{record.folder}"
    assert store["sub-1"].read().shape == (1, 3, 4, 5, 50)


def test_it_can_be_sent_and_knows_its_runs(store):
    put(store)
    again = pickle.loads(pickle.dumps(reopened(store)))
    assert again["sub-1"].read(0, 5).shape == (1, 3, 4, 5, 5)


def test_an_index_says_the_same_in_less_time(store, monkeypatch):
    put(store, "sub-1")
    put(store, "sub-2")
    store.refresh()
    store.write_index()
    put(store, "sub-3")
    read = []
    get = type(store.place).get
    monkeypatch.setattr(type(store.place), "get", lambda place, name: read.append(name) or get(place, name))
    assert list(reopened(store)) == ["sub-1", "sub-2", "sub-3"]
    assert [name for name in read if name.startswith("commits")] == [reopened(store).records["sub-3"].name]


def test_a_new_index_takes_the_place_of_the_old(store):
    put(store)
    store.refresh()
    store.write_index()
    store.write_index()
    assert len(store.place.names(INDEX)) == 1


@pytest.mark.parametrize(
    "content", [b"", b"no zlib", b"x\x9c\xab\xae\x05\x00\x01\xbf\x00\xf9", b"x\x9c3\x04\x00\x002\x002"]
)
def test_a_damaged_index_does_no_harm(store, content):
    put(store)
    store.refresh()
    store.write_index()
    (name,) = store.place.names(INDEX)
    store.place.put(f"{INDEX}/{name}", content)
    assert list(reopened(store)) == ["sub-1"]


def test_an_index_of_runs_that_are_gone(store):
    for key in ("sub-1", "sub-2"):
        put(store, key)
    store.refresh()
    store.write_index()
    store.place.remove(store.records["sub-1"].name)
    assert list(reopened(store)) == ["sub-2"]


def test_two_jobs_write_the_index_at_once(store, monkeypatch):
    put(store)
    store.refresh()
    store.write_index()
    names = store.place.names(INDEX)
    # which the other has removed since it was listed
    monkeypatch.setattr(type(store.place), "names", lambda place, folder="": [*names, "20200101T0Z-0.json.z"])
    store.write_index()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": "nstorm-run", "schema": 1}'])
def test_a_damaged_record_hides_its_run_only(store, content):
    put(store, "sub-1")
    record = put(store, "sub-2")
    store.place.put(record.name, content)
    with pytest.warns(UserWarning, match=rf"leaves out 1 of 2 runs.*{record.attempt}.json is damaged"):
        again = reopened(store)
    assert list(again) == ["sub-1"]
    assert list(again.damaged) == ["sub-2"]
    again.refresh()
    # prepared again, all is well
    put(store, "sub-2")
    again.refresh()
    assert list(again) == ["sub-1", "sub-2"]
    assert not again.damaged


def test_a_record_of_a_later_version(store):
    record = put(store)
    store.place.put(record.name, record.to_json().replace(b'"schema": 1', b'"schema": 7'))
    with pytest.warns(UserWarning, match="has schema version 7"):
        assert not reopened(store)


def test_a_record_under_another_name(store):
    record = put(store)
    store.place.put(record.name.replace("sub-1", "sub-9"), record.to_json())
    with pytest.warns(UserWarning, match=r"is the record commits/sub-1\..* under another name"):
        assert list(reopened(store)) == ["sub-1"]


def test_files_that_are_no_records_are_not_looked_at(store):
    put(store)
    for name in ("notes.txt", ".20261122T220653151632Z-8c514f7a.tmp", "sub-9.json"):
        store.place.put(f"commits/{name}", b"")
    assert list(reopened(store)) == ["sub-1"]


def test_runs_are_taken_out(store):
    put(store, "sub-1", seed=0)
    put(store, "sub-1", seed=1)
    put(store, "sub-2")
    store.refresh()
    with pytest.raises(KeyError, match="has no run sub-3"):
        store.remove(["sub-1", "sub-3"])
    assert len(store) == 2
    store.remove(["sub-1"])
    assert list(store) == list(reopened(store)) == ["sub-2"]


def test_a_run_with_a_damaged_record_is_taken_out(store):
    record = put(store)
    store.place.put(record.name, b"")
    with pytest.warns(UserWarning, match="leaves out"):
        store.refresh()
    store.remove(["sub-1"])
    assert not store.damaged


def test_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing is no store of nstorm \(it has no nstorm-store.json\)"):
        Store(tmp_path / "nothing")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(FileNotFoundError, match="file is no store"):
        Store(file)
    with pytest.raises(ValueError, match="file is a file: give a folder"):
        Store(file, create=True)


def test_a_folder_of_other_things(tmp_path):
    (tmp_path / "holiday.jpg").write_text("")
    with pytest.raises(ValueError, match=r"holds other files \(holiday.jpg\): give an empty folder"):
        Store(tmp_path, create=True)


@pytest.mark.parametrize(
    ("marker", "match"), [(b"", "is damaged"), (b"[]", "is damaged"), (b'{"schema": 9}', "version 9")]
)
def test_a_store_that_cannot_be_read(tmp_path, marker, match):
    (tmp_path / MARKER).write_bytes(marker)
    with pytest.raises(ValueError, match=match):
        Store(tmp_path)


def test_two_begin_a_store_at_once(tmp_path, monkeypatch):
    first = Store(tmp_path, create=True)
    put(first)
    # the second has looked for the marker before the first has written it
    get = type(first.place).get
    late = iter([True])

    def got(place, name):
        if name == MARKER and next(late, False):
            raise FileNotFoundError
        return get(place, name)

    monkeypatch.setattr(type(first.place), "get", got)
    assert list(Store(tmp_path, create=True)) == ["sub-1"]


def test_reading_writes_nothing(tmp_path):
    store = Store(tmp_path / "store", create=True)
    put(store)

    def seen():
        return {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}

    before = seen()
    again = Store(tmp_path / "store")
    again["sub-1"].read(normalize="zscore")
    again.refresh()
    assert seen() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_may_only_be_read(tmp_path):
    store = Store(tmp_path / "store", create=True)
    put(store)
    for path in [*tmp_path.rglob("*"), tmp_path]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        again = Store(tmp_path / "store")
        assert again["sub-1"].read().shape[-1] == 50
        with pytest.raises(PermissionError, match=str(tmp_path)):
            again.write_index()
    finally:
        for path in [tmp_path, *tmp_path.rglob("*")]:
            path.chmod(0o755)


def test_zarr_is_left_as_it_was(tmp_path):
    store = Store(tmp_path / "store", create=True)
    before = deepcopy(zarr.config.config)
    put(store)
    store.refresh()
    store["sub-1"].read()
    assert zarr.config.config == before
    # and what was written is open to others
    bold = zarr.open_array(Path(store["sub-1"].name), path="bold", mode="r")
    assert bold.shape == (50, 37)
