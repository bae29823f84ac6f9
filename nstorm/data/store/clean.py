"""What a store holds and does not need: of jobs that were killed, and of runs that were written again."""

from collections.abc import Iterator

from nstorm.data.in_threads import in_threads
from nstorm.data.store.place import TEMPORARY
from nstorm.data.store.record import ATTEMPT, COMMITS, NAME, RUNS, days_since
from nstorm.data.store.store import INDEX, Store, newest_records


def clean(store: Store, *, days: float = 7.0, dry_run: bool = False) -> list[str]:
    """Remove what does not belong to a run of the store, and has not for some days.

    This is what killed jobs have begun to write, and runs that were written again since, which are kept for a while for
    who reads them still. What a record of the store names stays, and so does all of a run whose record is damaged.

    Args:
        store: The store; it is refreshed.
        days: How long something has to be of no use. Longer than any job takes to write a run, and than any job reads
            from a store that it opened.
        dry_run: Whether to remove nothing, but list what would be.

    Returns:
        The names of what is removed, in the store.

    Raises:
        ValueError: ``days`` is 0 or less.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from nstorm.data import Store
        >>> from nstorm.data.store.clean import clean
        >>> from nstorm.data.store.write import write_run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(f"{folder}/store", create=True)
        ...     values, mask = np.random.randn(20, 6).astype("float32"), np.ones((1, 2, 3), bool)
        ...     for _ in range(2):
        ...         _ = write_run(store.place, "sub-1", values, mask, affine=np.eye(4), tr=2.0)
        ...     removed = clean(store, days=1e-9)
        ...     print(store)
        Store of 1 run, 20 frames, in .../store
        >>> removed
        ['commits/sub-1....json', 'runs/sub-1/...']
    """
    if not days > 0:
        raise ValueError(
            f"days is {days:g}, but what jobs are writing now has to stay: give more than any takes to write a run, "
            "such as 1"
        )
    # records go first: one without its arrays would be a run that is damaged
    found = [name for name, age in sorted(leftovers(store).items()) if age > days]
    if not dry_run:
        for name in found:
            store.place.remove(name)
    return found


def leftovers(store: Store) -> dict[str, float]:
    """Find what does not belong to a run of the store, and since how many days; the store is refreshed.

    Returns:
        By their names in the store: objects, and folders of runs.
    """
    # before the records, so that what is committed meanwhile is seen to be
    attempts = [(key, attempt) for key, attempts in _attempts(store) for attempt in attempts]
    objects = [(folder, name) for folder in ("", COMMITS, INDEX) for name in store.place.names(folder)]
    store.refresh()
    newest = {key: NAME.fullmatch(name) for key, name in newest_records(store.place).items()}
    since = {key: match["attempt"] for key, match in newest.items() if match}

    found = {}
    for key, attempt in attempts:
        if key not in since:
            found[f"{RUNS}/{key}/{attempt}"] = days_since(attempt)
        elif key in store and attempt != store.records[key].arrays:
            # it may have counted until the record was written, or be of a job that writes the run again
            found[f"{RUNS}/{key}/{attempt}"] = min(days_since(attempt), days_since(since[key]))
    for folder, name in objects:
        if match := TEMPORARY.fullmatch(name):
            found[f"{folder}/{name}".removeprefix("/")] = days_since(match["attempt"])
        match = NAME.fullmatch(name) if folder == COMMITS else None
        if match and match["key"] in store and match["attempt"] < since[match["key"]]:
            found[f"{folder}/{name}"] = days_since(since[match["key"]])
    return found


def _attempts(store: Store) -> Iterator[tuple[str, list[str]]]:
    keys = store.place.names(RUNS)
    folders = in_threads(store.place.names, (f"{RUNS}/{key}" for key in keys))
    for key, names in zip(keys, folders, strict=True):
        yield key, [name for name in names if ATTEMPT.fullmatch(name)]
