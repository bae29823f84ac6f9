"""Runs that a store lacks."""

import csv
from io import StringIO

from nstorm.data.preparation.failures import FAILURES
from nstorm.data.store.store import Store


def absent_runs(store: Store) -> list[tuple[str, str]]:
    """List the runs that could not be prepared and are still not there, and records that cannot be read, with reasons.

    Of a run that failed several times the last reason counts.
    """
    failed = {}
    for name in sorted(store.place.names(FAILURES)):
        if name.endswith(".tsv"):
            text = store.place.get(f"{FAILURES}/{name}").decode()
            failed.update({row["key"]: row["reason"] for row in csv.DictReader(StringIO(text), delimiter="\t")})
    return [(key, reason) for key, reason in sorted(failed.items()) if key not in store] + sorted(store.damaged.items())
