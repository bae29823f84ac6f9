import re

import pytest

from nstorm.data.store.clean import clean
from nstorm.data.store.store import Store
from nstorm.data.store.verify import verify
from nstorm.data.store.write import relabel
from tests.data.store.runs import put

# a moment ago, but not now
JUST = 1e-9


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(tmp_path / "store" if request.param == "local" else f"memory://{tmp_path.name}", create=True)


def aged(store, name, days_of="20200101T000000000000Z"):
    """Put something that a job of some years ago left."""
    name = name.format(f"{days_of}-00000000")
    store.place.put(name, b"{")
    return name


def test_what_killed_jobs_left(store):
    put(store, "sub-1")
    kept = [put(store, "sub-3"), put(store, "sub-1")]
    left = [
        aged(store, "runs/sub-1/{}/bold/zarr.json").removesuffix("/bold/zarr.json"),
        aged(store, "runs/sub-2/{}/zarr.json").removesuffix("/zarr.json"),
        aged(store, "commits/.{}.tmp"),
        aged(store, ".{}.tmp"),
    ]
    # sub-1 was written again a moment ago: what is before it may still be read, whatever its age
    expected = sorted(left[1:])
    assert clean(store, dry_run=True) == expected
    assert clean(store) == expected
    assert clean(store) == []
    assert store.place.names("runs/sub-2") == []
    assert {run.record.attempt for run in store.values()} == {record.attempt for record in kept}
    assert not verify(store, progress=False)


def test_what_was_replaced(store):
    old = put(store, seed=0)
    store.refresh()
    reader = store["sub-1"]
    new = put(store, seed=1)
    # who reads still is not disturbed for some days
    assert clean(store) == []
    assert reader.read().shape[-1] == 50
    assert clean(store, days=JUST) == [old.name, old.folder]
    with pytest.raises(FileNotFoundError, match="list the runs again if the store was cleaned meanwhile"):
        Store(store.place.url, create=False)["sub-1"].__class__(store.place, old).read()
    store.refresh()
    assert store.records["sub-1"] == new
    assert store["sub-1"].read().shape[-1] == 50


def test_arrays_that_another_record_names_stay(store):
    record = put(store)
    changed = relabel(store.place, record, {"age": 25})
    assert clean(store, days=JUST) == [record.name]
    assert store.records["sub-1"] == changed
    assert store["sub-1"].read().shape[-1] == 50


def test_what_is_being_written_stays(store):
    put(store)
    record = put(store, "sub-2")
    # all is there but the record
    store.place.remove(record.name)
    assert clean(store, days=0.01) == []
    store.place.put(record.name, record.to_json())
    store.refresh()
    assert store["sub-2"].read().shape[-1] == 50


def test_nothing_of_a_run_with_a_damaged_record_is_removed(store):
    put(store, seed=0)
    record = put(store, seed=1)
    aged(store, "runs/sub-1/{}/zarr.json")
    store.place.put(record.name, b"")
    with pytest.warns(UserWarning, match="leaves out"):
        assert clean(store, days=JUST) == []


def test_runs_that_were_taken_out(store):
    record = put(store)
    put(store, "sub-2")
    store.refresh()
    store.remove(["sub-1"])
    assert clean(store, days=JUST) == [record.folder]
    assert list(store) == ["sub-2"]


def test_other_files_stay(store):
    put(store)
    names = ["notes.txt", "failures/x.tsv", "runs/readme", "runs/sub-9/mine/file", "commits/notes.json"]
    for name in names:
        store.place.put(name, b"mine")
    assert clean(store, days=JUST) == []
    assert all(store.place.get(name) == b"mine" for name in names)


def test_two_clean_at_once(store, monkeypatch):
    put(store, seed=0)
    put(store, seed=1)
    remove = type(store.place).remove
    monkeypatch.setattr(type(store.place), "remove", lambda place, name: [remove(place, name), remove(place, name)])
    assert len(clean(store, days=JUST)) == 2


@pytest.mark.parametrize("days", [0.0, -1.0, float("nan")])
def test_what_is_written_now_is_never_removed(store, days):
    with pytest.raises(ValueError, match=re.escape(f"days is {days:g}, but what jobs are writing now has to stay")):
        clean(store, days=days)
