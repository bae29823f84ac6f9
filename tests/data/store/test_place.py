import os
import pickle

import pytest

from nstorm.data.store.place import TEMPORARY, Place


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    return Place(tmp_path / "store" if request.param == "local" else f"memory://place-{tmp_path.name}")


def test_objects_there_and_gone(place):
    assert place.names("a/b") == []
    place.put("a/b/one.json", b"1")
    place.put("a/two", b"")
    assert place.get("a/b/one.json") == b"1"
    assert sorted(place.names("a")) == ["b", "two"]
    place.put("a/b/one.json", b"11")
    assert place.get("a/b/one.json") == b"11"
    place.remove("a/b")
    assert place.names("a") == ["two"]
    with pytest.raises(FileNotFoundError):
        place.get("a/b/one.json")


def test_what_is_gone_can_be_removed_again(place):
    place.remove("nothing")
    place.remove("no/thing")


def test_it_can_be_sent(place):
    place.put("one", b"1")
    again = pickle.loads(pickle.dumps(place))
    assert again.get("one") == b"1"
    assert str(again) == str(place)


def test_a_place_has_one_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {str(Place(path)) for path in ("store", tmp_path / "store", f"file://{tmp_path}/store/", "./x/../store")}
    assert names == {str(tmp_path / "store")}
    assert str(Place("s3://bucket/store/")) == "s3://bucket/store"


def test_a_full_disk_leaves_no_object_and_no_temporary_file(tmp_path, monkeypatch):
    place = Place(tmp_path)
    place.put("a", b"before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        place.put("a", b"after")
    assert os.listdir(tmp_path) == ["a"]
    assert place.get("a") == b"before"


def test_a_killed_put_leaves_what_is_known_to_be_temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *paths: os._exit(9))
    if (child := os.fork()) == 0:
        Place(tmp_path).put("a", b"1")
    os.waitpid(child, 0)
    (name,) = os.listdir(tmp_path)
    assert TEMPORARY.fullmatch(name)
