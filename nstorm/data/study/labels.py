"""Labels of a table, put into the items of runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

from nstorm.data.clips.items import IDENTITY, image_file, listing
from nstorm.data.study.problem import Problem, without_run
from nstorm.data.study.selection import plain
from nstorm.data.study.table import Row, is_unknown, read_table, uniform

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """What is left of a table that was joined: its name and its labels."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class LabelTable:
    """A table of labels whose columns have the names that items use.

    Attributes:
        name: What messages call it.
        rows: Its rows, each with all columns.
        keys: The columns that say which runs a row belongs to.
    """

    name: str
    rows: Sequence[Row]
    keys: tuple[str, ...]

    @classmethod
    def read(cls, table: Any, keys: Sequence[str] | None) -> "LabelTable":
        """Read a table from a file or a DataFrame, by default by subject, and by session if it has a column of these.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The table lacks a key, or has two rows for one.
        """
        name = fspath(table) if isinstance(table, str | PathLike) else "the table"
        rows = uniform(read_table(table, text=IDENTITY))
        columns = list(rows[0]) if rows else []
        if keys is None:
            keys = ["subject", "session"] if "session" in columns else ["subject"]
        made = cls(name, rows, tuple(keys))
        if missing := [key for key in keys if key not in columns]:
            raise ValueError(
                f"{name} has the columns {columns} and lacks {' and '.join(missing)}: rename a column, or say with on= "
                "what the table goes by"
            )
        numbers = Counter(made.key(row) for row in made.rows)
        if twice := [key for key, number in numbers.items() if number > 1]:
            raise ValueError(
                f"{name} has more than one row for {listing(map(_text, twice))}: keep one of each, or say with on= "
                "what tells them apart, as on=('subject', 'session')"
            )
        return made

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns that are put into runs."""
        return tuple(column for column in (self.rows[0] if self.rows else ()) if column not in self.keys)

    def key(self, row: Mapping[str, Any]) -> Key:
        """Say whom a row, or a run, is about."""
        return tuple(plain(key, row.get(key)) for key in self.keys)

    def joined(self, runs: Sequence[Row]) -> list[Row]:
        """Put the labels of each row into the runs that it is about.

        Raises:
            ValueError: The table has no labels, none of the rows is about a run, or one contradicts what a run says
                already.
        """
        if not self.labels:
            raise ValueError(f"{self.name} has no column but {' and '.join(self.keys)}: give a table with labels")
        by_key = {self.key(row): row for row in self.rows}
        of_study = {self.key(run) for run in runs}
        if not of_study & by_key.keys():
            raise ValueError(
                f"no row of {self.name} has the {' and '.join(self.keys)} of a run: it has "
                f"{listing(map(_text, by_key), 3)}, the study {listing(map(_text, of_study), 3)}. Names are text: read "
                "a table with dtype=str where zeros before numbers were lost"
            )
        return [{**run, **self._new(run, by_key.get(self.key(run), {}))} for run in runs]

    def without_run(self, runs: Sequence[Row]) -> list[Problem]:
        """Say which rows have no run."""
        unused = {self.key(row) for row in self.rows} - {self.key(run) for run in runs}
        return without_run(set(map(_text, unused)), "row", f"of {self.name} without a run of this study")

    def _new(self, run: Row, row: Row) -> Row:
        new = {label: row[label] for label in self.labels if not is_unknown(row.get(label))}
        for label, value in new.items():
            if not is_unknown(run.get(label)) and plain(label, run[label]) != plain(label, value):
                raise ValueError(
                    f"{self.name} gives {label} {value!r} for {image_file(run)}, whose item has {run[label]!r} "
                    "already: rename the column, or leave it out"
                )
        return new


def _text(key: Key) -> str:
    return " ".join(key)
