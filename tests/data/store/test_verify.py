import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from nstorm.data.store.store import INDEX, Store
from nstorm.data.store.verify import verify
from tests.data.store.runs import put

EXTRAS = {"series": np.arange(12, dtype=np.float32).reshape(3, 4), "carpet": np.ones((2, 2), np.uint8)}


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    store = Store(tmp_path / "store" if request.param == "local" else f"memory://{tmp_path.name}", create=True)
    put(store, "sub-0")
    put(store, "sub-1", num_frames=50, extras=EXTRAS)
    store.refresh()
    return store


def damage(store, name, change, key="sub-1"):
    """Change the content of an object of a run."""
    name = f"{store.records[key].folder}/{name}"
    store.place.put(name, change(store.place.get(name)))


def flipped(where):
    def change(content):
        changed = bytearray(content)
        changed[int(where * len(content))] ^= 0x10
        return bytes(changed)

    return change


def cut(content):
    return content[:-7]


def emptied(content):
    return b""


def one_of(found, what):
    (damage,) = found
    assert damage.key == "sub-1"
    assert what in damage.what
    assert str(damage) == f"sub-1: {damage.what}: take the run out with Store.remove, and prepare it again"


def test_a_whole_store(store):
    found = verify(store, progress=False)
    assert list(found) == []
    assert repr(found) == "2 runs, 0.0 MB, 0 problems"
    assert (found.num_runs, found.num_bytes, found.leftovers) == (2, 2 * 50 * 37, ())


@pytest.mark.parametrize("one_file", [False, True], ids=["files", "one_file"])
@pytest.mark.parametrize(
    "change", [flipped(0.1), flipped(0.999), cut, emptied], ids=["first", "last", "cut", "emptied"]
)
def test_a_damaged_chunk(store, one_file, change):
    put(store, "sub-1", one_file=one_file)
    store.refresh()
    damage(store, f"bold/c/{0 if one_file else 1}/0", change)
    run = store["sub-1"]
    found = verify(store, progress=False)
    assert {each.key for each in found} == {"sub-1"}
    assert "bold is damaged in frames" in found[0].what
    # of a file of all frames not even the list of its chunks may be left
    with pytest.raises(
        (ValueError, FileNotFoundError), match=rf"{run.name}/bold(, frames 0 to 50, is damaged| has no)"
    ):
        run.read()
    if not one_file:
        one_of(found, "bold is damaged in frames 20 to 39 (")
        assert run.read(0, 20).shape[-1] == 20
        assert run.read(40, 50).shape[-1] == 10


@pytest.mark.parametrize("dtype", ["int8", "int16", "float16", "float32"])
def test_a_chunk_that_is_gone(store, dtype):
    put(store, "sub-1", dtype=dtype)
    store.refresh()
    run = store["sub-1"]
    store.place.remove(f"{run.record.folder}/bold/c/1/0")
    one_of(verify(store, progress=False), "bold has no chunk with frames 20 to 39")
    with pytest.raises(FileNotFoundError, match=rf"{run.name}/bold has no chunk with frame 20: take the run out"):
        run.read(10, 30)
    assert run.read(0, 20, "zscore").shape[-1] == 20


def test_a_file_of_all_frames_that_is_gone(store):
    put(store, "sub-1", one_file=True)
    store.refresh()
    store.place.remove(f"{store.records['sub-1'].folder}/bold/c/0/0")
    found = verify(store, progress=False)
    assert [each.what for each in found] == [
        f"bold has no chunk with frames {rows}" for rows in ("0 to 19", "20 to 39", "40 to 49")
    ]


@pytest.mark.parametrize("name", ["voxels", "mask", "far", "series", "carpet"])
@pytest.mark.parametrize("change", [flipped(0.1), None], ids=["flipped", "gone"])
def test_other_arrays(store, name, change):
    values = np.arange(50)[:, None] < 2
    put(store, "sub-1", extras=EXTRAS)
    if name == "far":
        with_far_frames(store, values)
    store.refresh()
    run = store["sub-1"]
    chunk = {"mask": "mask/c/0"}.get(name, f"{name}/c/0/0")
    if change is None:
        store.place.remove(f"{run.record.folder}/{chunk}")
    else:
        damage(store, chunk, change)
    found = verify(store, progress=False)
    assert found
    assert all(each.key == "sub-1" and each.what.startswith(name) for each in found)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"{run.name}/{name} (is damaged|has lost|has no chunk)"):
        run.array(name) if name in EXTRAS else run.read()


def with_far_frames(store, far):
    from nstorm.data.store.write import write_run
    from tests.data.store.runs import AFFINE, fabricated

    values, mask = fabricated()
    record = write_run(store.place, "sub-1", values * (1 + far).astype(np.float32), mask, affine=AFFINE, tr=1.5)
    assert record.far == (0, 1)


@pytest.mark.parametrize("name", ["zarr.json", "bold/zarr.json", "mask/zarr.json"])
@pytest.mark.parametrize("change", [cut, lambda content: b"{}", None], ids=["cut", "other", "gone"])
def test_metadata(store, name, change):
    run = store["sub-1"]
    if change is None:
        store.place.remove(f"{run.record.folder}/{name}")
    else:
        damage(store, name, change)
    found = verify(store, progress=False)
    assert {each.key for each in found} == {"sub-1"}
    with pytest.raises(
        (ValueError, FileNotFoundError),
        match=rf"{run.name}/(zarr.json|bold|mask).* (is damaged|is not there)|no statistics",
    ):
        run.read(normalize="global")


def test_a_changed_attribute(store):
    damage(store, "zarr.json", lambda content: content.replace(b'"std": ', b'"std": 1'))
    one_of(verify(store, progress=False), "its attributes are damaged")
    damage(store, "zarr.json", lambda content: content.replace(b'"tr": 1.5', b'"tr": 2.5'))
    assert "its attributes have tr 2.5, but its record 1.5" in [each.what for each in verify(store, progress=False)]


def test_chunks_of_another_run(store):
    record = put(store, "sub-2", seed=3)
    other = store.place.get(f"{record.folder}/bold/c/0/0")
    damage(store, "bold/c/0/0", lambda content: other)
    one_of(verify(store, progress=False), "bold is not what was written (its SHA-256 is another one)")


def test_another_type(store):
    damage(store, "bold/zarr.json", lambda content: content.replace(b'"int8"', b'"uint8"').replace(b"-128", b"0"))
    one_of(verify(store, progress=False), "bold has shape (50, 37) and type uint8, not (50, 37) and int8")


def test_a_record_that_is_damaged(store):
    store.place.put(store.records["sub-1"].name, b"{}")
    with pytest.warns(UserWarning, match="leaves out 1 of 2 runs"):
        again = Store(store.place.url)
    found = verify(again, progress=False)
    one_of(found, "its record cannot be read")
    assert found.num_runs == 1
    # what it names is not known: nothing of it is to be cleaned
    assert not found.leftovers


def test_a_record_that_the_index_had_before(store):
    store.write_index()
    (name,) = store.place.names(INDEX)
    store.place.put(store.records["sub-1"].name, b"{}")
    again = Store(store.place.url)
    one_of(verify(again, progress=False), "is damaged")
    entries = json.loads(zlib.decompress(store.place.get(f"{INDEX}/{name}")))
    assert len(entries) == 2


def test_what_killed_jobs_left_is_counted(store):
    store.place.put("runs/sub-9/20200101T000000000000Z-00000000/bold/zarr.json", b"{")
    store.place.put("commits/.20200101T000000000000Z-00000000.tmp", b"{")
    put(store, "sub-0")
    found = verify(store, progress=False)
    assert not found
    assert len(found.leftovers) == 4
    assert repr(found).endswith(
        "4 leftovers of killed jobs and replaced runs, which do no harm: nstorm clean removes them"
    )


def test_a_path_and_processes(tmp_path, capsys):
    store = Store(tmp_path / "store", create=True)
    for number in range(3):
        put(store, f"sub-{number}")
    store.refresh()
    damage(store, "bold/c/0/0", cut)
    one_of(verify(Path(tmp_path / "store"), workers=2), "bold is damaged in frames 0 to 19")
    assert capsys.readouterr().err == ""
