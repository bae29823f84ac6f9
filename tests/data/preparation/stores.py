"""Studies to prepare, and what is in a store."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nstorm.data import Study, haxby_runs
from nstorm.data.preparation.one_run import prepare_run
from nstorm.data.store.store import Store
from nstorm.data.store.write import checksum


def copied_study(folder: Path, number: int = 4) -> Study:
    """Copy some real runs of one slice, so that their files can be damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [shutil.copy(run.bold, folder) for run in haxby_runs()[:number]]
    return Study({"image": image, "site": "Rutgers"} for image in images)


def keys_of(study: Study) -> list[str]:
    return [f"sub-001_task-objectviewing_run-{item['run']}" for item in study]


def content_of(path: Path) -> dict[str, Any]:
    """Read all that a store holds but the names of attempts and the named times; the arrays are read and checked."""
    found = {}
    for key, run in Store(path).items():
        record = asdict(run.record)
        del record["attempt"], record["arrays"]
        for name, expected in record["checksums"].items():
            array = run.codes(0, run.num_frames) if name == "bold" else run.array(name)
            assert checksum(array) == expected, f"{key}/{name}"
        attributes = dict(run.attributes)
        del attributes["times"]
        found[key] = {"record": record, "attributes": attributes}
    return found


def truncate(path: str | Path, by: int = 3000) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:-by])


def flip_bit(path: str | Path, where: float = 0.7) -> None:
    content = bytearray(Path(path).read_bytes())
    content[int(len(content) * where)] ^= 0x10
    Path(path).write_bytes(bytes(content))


def prepared(store, item, recipe):
    record = prepare_run(item, store.place, recipe)
    store.refresh()
    assert store.records[record.key] == record
    return store[record.key]
