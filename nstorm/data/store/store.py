"""The runs of a study, prepared, in one folder or under one prefix of an object store."""

import json
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nstorm.data.in_threads import in_threads
from nstorm.data.store.folded import Normalization
from nstorm.data.store.place import TEMPORARY, Place
from nstorm.data.store.record import COMMITS, NAME, SCHEMA, RunRecord, new_attempt
from nstorm.data.store.stored_run import StoredRun
from nstorm.data.wording import some_of

if TYPE_CHECKING:
    from nstorm.data.store.verify import Verification

MARKER = "nstorm-store.json"
INDEX = "index"
# records on a local disk that are read sooner than threads begin
_FEW = 64


class Store(Mapping[str, StoredRun]):
    """The runs of a store by their names, as they were when it was opened, or at the last :meth:`refresh`.

    A run is there as soon as it is whole, and can be read by many while others are written. The store says for each run
    what is known of it (:meth:`run_items`), and gives its frames (:class:`StoredRun`). A run whose record cannot be
    read is left out, with a warning.

    Args:
        path: A folder, or a URL that fsspec knows, such as ``s3://bucket/store``.
        create: Whether to begin a store where there is none.
        storage_options: What fsspec needs to know for a URL.

    Raises:
        FileNotFoundError: There is no store, and none is to be begun.
        ValueError: The folder holds something else, or a store of another version.

    Example:
        >>> import tempfile
        >>> from nstorm.data import Store, Study, haxby_runs, prepare
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     study = Study({"image": run.bold} for run in haxby_runs()[:2])
        ...     store = prepare(study, f"{folder}/store", preset="native", progress=False)
        ...     print(store)
        ...     clip = store["sub-001_task-objectviewing_run-02"].read(40, 60, normalize="zscore")
        Store of 2 runs, 242 frames, in .../store
        >>> clip.shape, clip.meta["tr"], clip.meta["start_time"]
        (torch.Size([1, 40, 20, 1, 20]), 2.5, 100.0)
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        create: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.place = Place(path, storage_options)
        try:
            self._check(self.place.get(MARKER))
        except (FileNotFoundError, NotADirectoryError):
            if not create:
                raise FileNotFoundError(
                    f"{self.place} is no store of nstorm (it has no {MARKER}): make one with nstorm.data.prepare"
                ) from None
            self._begin()
        self._records: dict[str, RunRecord] = {}
        self._damaged: dict[str, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look again which runs there are."""
        newest = newest_records(self.place)
        known = {f"{record.key}.{record.attempt}.json": record for record in self._records.values()}
        if not known:
            known = self._indexed()
        missing = [name for name in newest.values() if name not in known]
        few = self.place.local and len(missing) < _FEW
        found = map(self._record, missing) if few else in_threads(self._record, missing)
        made = dict(zip(missing, found, strict=True))
        known |= {name: record for name, record in made.items() if isinstance(record, RunRecord)}
        damaged = {key: said for key, name in newest.items() if isinstance(said := made.get(name), str)}
        if damaged.keys() - self._damaged.keys():
            warnings.warn(
                f"{self.place} leaves out {len(damaged):,} of {len(newest):,} runs, whose records cannot be read: "
                + some_of(list(damaged.values()), 3),
                stacklevel=2,
            )
        self._damaged = damaged
        self._records = {key: known[newest[key]] for key in sorted(newest) if newest[key] in known}

    @property
    def records(self) -> Mapping[str, RunRecord]:
        """What the store says of each run."""
        return self._records

    @property
    def damaged(self) -> Mapping[str, str]:
        """Why runs are left out, by their names: their records cannot be read."""
        return self._damaged

    def run_items(self) -> list[dict[str, Any]]:
        """Describe the runs as items, which splits take, and :class:`nstorm.data.Study` to filter them and join labels.

        Beside the labels an item has ``image``, where the run lies; ``num_frames``; and ``tr`` in seconds.
        """
        return [
            {
                "image": self.place.below(record.folder),
                **record.labels,
                "num_frames": record.num_frames,
                "tr": record.tr,
            }
            for record in self._records.values()
        ]

    def remove(self, keys: Iterable[str]) -> None:
        """Take runs out of the store, such as damaged ones, to prepare them again, or those of who takes part no more.

        Their frames stay on the disk until :func:`nstorm.data.store.clean.clean` removes them.

        Raises:
            KeyError: There is no such run; then none is taken out.
        """
        wanted = set(keys)
        if unknown := wanted - self._records.keys() - self._damaged.keys():
            raise KeyError(f"{self.place} has no run {some_of(sorted(unknown), 3)}")
        # the oldest first, so that none of them counts in between
        for name in sorted(self.place.names(COMMITS)):
            match = NAME.fullmatch(name)
            if match and match["key"] in wanted:
                self.place.remove(f"{COMMITS}/{name}")
        self.refresh()

    def verify(self, *, workers: int = 1, progress: bool = True) -> "Verification":
        """Read all of the store, and compare it with what was written: :func:`nstorm.data.store.verify.verify`."""
        from nstorm.data.store.verify import verify

        return verify(self, workers=workers, progress=progress)

    def clean(self, *, days: float = 7.0, dry_run: bool = False) -> list[str]:
        """Remove what killed jobs left and what was replaced: :func:`nstorm.data.store.clean.clean`."""
        from nstorm.data.store.clean import clean

        return clean(self, days=days, dry_run=dry_run)

    def export(
        self,
        folder: str | PathLike[str],
        keys: Iterable[str] | None = None,
        *,
        normalize: Normalization = "none",
        overwrite: bool = False,
        progress: bool = True,
    ) -> list[Path]:
        """Write runs as NIfTI, with masks, sidecars and events: :func:`nstorm.data.store.export.export`."""
        from nstorm.data.store.export import export

        return export(self, folder, keys, normalize=normalize, overwrite=overwrite, progress=progress)

    def write_index(self) -> None:
        """Put all records into one object, from which a store of many thousand runs opens in less time.

        Records never change, so that an index that is old or lost costs time and nothing else.
        """
        records = {record.name: record.to_json().decode() for record in self._records.values()}
        old = self.place.names(INDEX)
        self.place.put(f"{INDEX}/{new_attempt()}.json.z", zlib.compress(json.dumps(records).encode(), 1))
        for name in old:
            self.place.remove(f"{INDEX}/{name}")

    def __getitem__(self, key: str) -> StoredRun:
        if key not in self._records:
            raise KeyError(f"{self.place} has no run {key!r}; it has {some_of(list(self._records), 3) or 'none'}")
        return StoredRun(self.place, self._records[key])

    def __contains__(self, key: object) -> bool:
        return key in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        frames = sum(record.num_frames for record in self._records.values())
        runs = f"{len(self):,} run{'s' * (len(self) != 1)}"
        return f"Store of {runs}, {frames:,} frames, in {self.place}"

    def _begin(self) -> None:
        if self.place.local and os.path.isfile(self.place.url):
            raise ValueError(f"{self.place} is a file: give a folder for the store")
        others = [name for name in self.place.names() if not TEMPORARY.fullmatch(name)]
        # another process may have begun it meanwhile
        if others and MARKER not in others:
            raise ValueError(
                f"{self.place} holds other files ({some_of(sorted(others), 3)}): give an empty folder for the store"
            )
        self.place.put(MARKER, json.dumps({"format": "nstorm-store", "schema": SCHEMA}).encode())

    def _check(self, marker: bytes) -> None:
        where = self.place.below(MARKER)
        try:
            schema = json.loads(marker)["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{where} is damaged: if the folder is a store, write {{"schema": 1}} into it') from error
        if schema != SCHEMA:
            raise ValueError(
                f"{where} has schema version {schema}, but this nstorm reads version {SCHEMA}: use the nstorm that "
                "wrote it, or prepare the study again"
            )

    def _record(self, name: str) -> RunRecord | str:
        try:
            return read_record(self.place, f"{COMMITS}/{name}")
        except (ValueError, OSError) as error:
            return str(error)

    def _indexed(self) -> dict[str, RunRecord]:
        names = self.place.names(INDEX)
        if not names:
            return {}
        newest = f"{INDEX}/{max(names)}"
        try:
            entries = json.loads(zlib.decompress(self.place.get(newest)))
            found = [RunRecord.from_json(text.encode(), newest) for text in entries.values()]
        except (FileNotFoundError, ValueError, AttributeError, zlib.error):
            # replaced meanwhile, or damaged: the records themselves say the same
            return {}
        return {f"{record.key}.{record.attempt}.json": record for record in found}


def newest_records(place: Place) -> dict[str, str]:
    """Find the name of the record that counts for each run."""
    newest: dict[str, str] = {}
    for name in place.names(COMMITS):
        match = NAME.fullmatch(name)
        # of two records of a run the later one counts, and its name is the larger one
        if match and name > newest.get(match["key"], ""):
            newest[match["key"]] = name
    return newest


def read_record(place: Place, name: str) -> RunRecord:
    """Read a record by its name.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or another run's.
    """
    record = RunRecord.from_json(place.get(name), place.below(name))
    if record.name != name:
        raise ValueError(f"{place.below(name)} is the record {record.name} under another name: remove it")
    return record
