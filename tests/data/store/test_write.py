import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr.storage._local

from nstorm.data.store.place import Place
from nstorm.data.store.store import Store
from nstorm.data.store.verify import verify
from nstorm.data.store.write import relabel, write_run
from tests.data.store.runs import AFFINE, fabricated, put

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"values": np.zeros((5, 36), np.float32)}, r"sub-1 has values of shape \(5, 36\) and a mask of .* 37 voxels"),
        ({"values": np.zeros((0, 37), np.float32)}, "with one frame and one voxel or more"),
        ({"values": np.zeros((5, 0), np.float32), "mask": np.zeros((3, 4, 5), bool)}, "with 0 voxels"),
        ({"values": np.full((5, 37), np.nan, np.float32)}, "sub-1 has NaN or infinite values in frame 0"),
        ({"affine": np.full((4, 4), np.nan)}, "sub-1 has the affine"),
        ({"affine": np.eye(3)}, "give 4x4 finite numbers"),
        ({"tr": 0.0}, "sub-1 has the TR 0.0"),
        ({"tr": float("inf")}, "give its repetition time in seconds"),
        ({"labels": {"age": np.float32(3)}}, "the record of sub-1 cannot be written as JSON"),
        ({"attributes": {"a": float("nan")}}, "the attributes of sub-1 cannot be written as JSON"),
        ({"extras": {"mask": np.zeros(3)}}, "an extra of sub-1 has the name mask"),
        ({"extras": {"far": np.zeros(3)}}, "an extra of sub-1 has the name far"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, changes, match):
    values, mask = fabricated()
    arguments = {"values": values, "mask": mask, "affine": AFFINE, "tr": 1.5, **changes}
    with pytest.raises(ValueError, match=match):
        write_run(Place(tmp_path), "sub-1", **arguments)
    assert not list(tmp_path.iterdir())


def test_an_infinite_value_is_named_by_its_frame(tmp_path):
    values, mask = fabricated()
    values[31, 36] = np.inf
    with pytest.raises(ValueError, match="frame 31"):
        write_run(Place(tmp_path), "sub-1", values, mask, affine=AFFINE, tr=1.5)


@pytest.mark.parametrize("where", ["zarr.storage._local._put", "os.fsync", "os.replace"])
def test_a_full_disk_leaves_no_run(tmp_path, monkeypatch, where):
    store = Store(tmp_path / "store", create=True)
    put(store, "sub-0")
    number = iter(range(1000))

    def full(*args, **kwargs):
        if next(number) > 2 or where == "os.replace":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(where, full)
    with pytest.raises(OSError, match=r"store/(runs|commits)/sub-1.* could not be written.*No space left") as error:
        put(store)
    assert error.value.__cause__.errno == 28
    monkeypatch.undo()
    assert list(Store(tmp_path / "store")) == ["sub-0"]
    assert not verify(store, progress=False)


def test_ctrl_c_waits_for_the_run_that_is_written(tmp_path, monkeypatch):
    store = Store(tmp_path / "store", create=True)
    number = iter(range(1000))
    put_file = zarr.storage._local._put

    def interrupted(*args, **kwargs):
        # zarr writes in threads of its own, and waits in this one
        if next(number) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return put_file(*args, **kwargs)

    monkeypatch.setattr("zarr.storage._local._put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        put(store)
    monkeypatch.undo()
    assert next(number) > 3
    assert list(Store(tmp_path / "store")) == ["sub-1"]
    assert not verify(store, progress=False)


def test_the_progress_ends_at_one(tmp_path):
    told = []
    put(Place(tmp_path), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1


def test_two_writings_are_the_same_but_for_their_names(tmp_path):
    first, second = (put(Place(tmp_path), attributes={"times": {"at": time}}) for time in ("then", "now"))
    assert first.attempt != second.attempt
    assert first.checksums == second.checksums
    files = [
        {
            str(path.relative_to(tmp_path / record.folder)): path.read_bytes()
            for path in (tmp_path / record.folder).rglob("*")
            if path.is_file()
        }
        for record in (first, second)
    ]
    different = {name for name in files[0] if files[0][name] != files[1][name]}
    assert files[0].keys() == files[1].keys()
    # which holds the named times
    assert different == {"zarr.json"}


def result_of(name, folder):
    command = [sys.executable, "-m", "tests.data.store.fault_writers", name, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_writer_killed_at_any_moment_leaves_no_half_run(tmp_path):
    found = result_of("killed", tmp_path)
    assert found["runs"] == 1
    assert found["records"] > 1
    assert found["attempts left"] > 0


def test_readers_while_two_write_the_same_run(tmp_path):
    found = result_of("read_meanwhile", tmp_path)
    assert found["seen"] == 4
    assert found["attempts"] >= 12


def test_labels_are_written_again_without_the_arrays(tmp_path):
    store = Store(tmp_path / "store", create=True)
    record = put(store, labels={"age": 1})
    changed = relabel(store.place, record, {"age": 2})
    assert (changed.arrays, changed.checksums) == (record.arrays, record.checksums)
    assert not verify(store, progress=False)
