"""Runs of a store that stay open for a while."""

from collections.abc import Sequence

from nstorm.data.store.place import Place
from nstorm.data.store.record import RunRecord
from nstorm.data.store.stored_run import StoredRun

# at 2 mm a run keeps about 8 MB, and opening it takes as long as reading a clip
MOST = 8


class OpenedRuns:
    """Runs of a store by number, of which those stay open that were used last: clips of one run often come together.

    Args:
        place: The store's.
        records: What the store says of the runs.
    """

    def __init__(self, place: Place, records: Sequence[RunRecord]) -> None:
        self._place = place
        self.records = records
        self._open: dict[int, StoredRun] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_open": {}}

    def __getitem__(self, number: int) -> StoredRun:
        run = self._open.pop(number, None) or StoredRun(self._place, self.records[number])
        self._open[number] = run
        # threads may do so at the same time
        for oldest in list(self._open)[:-MOST]:
            self._open.pop(oldest, None)
        return run
