"""Tables of text and numbers: CSV, TSV, JSON, or a DataFrame."""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nstorm.data.clips.items import listing, text_of
from nstorm.data.files.atomic import written_whole
from nstorm.data.study.selection import item_key

if TYPE_CHECKING:
    import pandas

Table: TypeAlias = "str | PathLike[str] | pandas.DataFrame"
Row: TypeAlias = dict[str, Any]

DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLES = (*DELIMITERS, ".json")
_MARKS = {",": "commas", "\t": "tabs", ";": "semicolons"}
# how BIDS, R, pandas and Excel write that a cell has no value
_EMPTY = {"", "n/a", "N/A", "#N/A", "NA", "NaN", "nan", "<NA>"}
_BOOLEAN = {"false": 0, "true": 1}
# 007 is a name
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*|(0|[1-9]\d*)?\.\d+|(0|[1-9]\d*)\.)([eE][+-]?\d+)?")


def read_table(source: Any, text: Collection[str]) -> list[Row]:
    """Read the rows of a table; BIDS's names of columns become the keys of items.

    Rows of empty cells are left out, and so are columns of CSV or TSV without a name, as R writes them for row names.
    A column of these whose known values are all numbers is read as numbers, and so is one of True and False, as 1
    and 0; a zero before a number, as in ``007``, makes it a name. JSON and DataFrames say themselves what is a number
    and what is not known.

    Args:
        source: A ``.csv``, ``.tsv`` or ``.json`` file (a list of objects), or a DataFrame.
        text: The keys that are text in any case.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no such table, or two of its columns have one name.
    """
    if not isinstance(source, str | PathLike):
        return _renamed(source.rename(columns=str).to_dict("records"), "the table")
    path = Path(source)
    if not path.exists():
        remedy = "fetch it, as with datalad get" if path.is_symlink() else "correct the path"
        raise FileNotFoundError(f"{path} is not there: {remedy}")
    try:
        if path.suffix == ".json":
            return _renamed(_from_json(path), str(path))
        if path.suffix in DELIMITERS:
            return _with_numbers(_renamed(_from_csv(path), str(path)), text)
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table in UTF-8 ({error}): correct it, or write it again") from error
    raise ValueError(f"{path} is no table that nstorm reads: give a .csv, .tsv or .json file")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], *, overwrite: bool) -> None:
    """Write rows as the ending of the file says.

    Raises:
        FileExistsError: There is such a file, and it is not to be overwritten.
        ValueError: The ending is none of ``.csv``, ``.tsv`` and ``.json``.
    """
    if path.suffix not in TABLES:
        raise ValueError(f"{path} has an ending that names no table: write a .csv, .tsv or .json file")
    with written_whole(path, overwrite=overwrite) as temporary:
        if path.suffix == ".json":
            known = [{key: None if is_unknown(value) else value for key, value in row.items()} for row in rows]
            temporary.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            return
        columns = dict.fromkeys(key for row in rows for key in row)
        unknown = "n/a" if path.suffix == ".tsv" else ""
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, delimiter=DELIMITERS[path.suffix], lineterminator="\n")
            table.writerow(columns)
            for row in rows:
                values = [row.get(column) for column in columns]
                table.writerow([unknown if is_unknown(value) else value for value in values])


def uniform(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Give all rows the same keys and a column one type, as items that share a batch need it.

    What is not known is NaN in a column of numbers and ``""`` in one of text; True is 1. In a column of text and
    numbers all become text, and so do dates.

    Raises:
        ValueError: A value is a list, an array or the like.
    """
    columns = dict.fromkeys(key for row in rows for key in row)
    for number, row in enumerate(rows, 1):
        for column, value in row.items():
            if isinstance(value, Collection) and not isinstance(value, str):
                raise ValueError(
                    f"{column} is a {type(value).__name__} in row {number}, but it has to be text or a number: give "
                    "each of its values a name of its own, or leave it out"
                )
    typed = {column: _uniform([_python(row.get(column)) for row in rows]) for column in columns}
    return [dict(zip(typed, values, strict=True)) for values in zip(*typed.values(), strict=True)]


def is_unknown(value: Any) -> bool:
    """Whether a table says by this value that it has none."""
    return text_of(value) == ""


def _renamed(rows: list[Row], name: str) -> list[Row]:
    columns = dict.fromkeys(column for row in rows for column in row)
    keys = {column: item_key(column) for column in columns}
    if twice := [key for key, number in Counter(keys.values()).items() if number > 1]:
        raise ValueError(f"{name} has more than one column for {listing(twice)}: rename or remove one of them")
    return [{keys[column]: value for column, value in row.items()} for row in rows]


def _with_numbers(rows: list[Row], text: Collection[str]) -> list[Row]:
    numbers = set()
    for key in rows[0] if rows else ():
        known = [row[key] for row in rows if row[key] is not None]
        is_number = all(map(_NUMBER.fullmatch, known)) or all(cell.lower() in _BOOLEAN for cell in known)
        if key not in text and is_number:
            numbers.add(key)
    return [
        {key: _number(value) if key in numbers and value is not None else value for key, value in row.items()}
        for row in rows
    ]


def _number(text: str) -> int | float:
    if text.lower() in _BOOLEAN:
        return _BOOLEAN[text.lower()]
    try:
        return int(text)
    except ValueError:
        return float(text)


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _uniform(values: list[Any]) -> list[Any]:
    known = [value for value in values if not is_unknown(value)]
    if not known or not all(isinstance(value, Real) for value in known):
        return [value if isinstance(value, str) and not is_unknown(value) else text_of(value) for value in values]
    if len(known) == len(values) and all(isinstance(value, Integral) for value in known):
        return list(map(int, values))
    return [math.nan if is_unknown(value) else float(value) for value in values]


def _from_json(path: Path) -> list[Row]:
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} is no list of objects: write one object for each row, all in one list")
    for number, row in enumerate(rows, 1):
        for key, value in row.items():
            if isinstance(value, list | dict):
                raise ValueError(f"{path}, row {number}: {key} is {value!r}, but it has to be text or a number")
    return rows


def _from_csv(path: Path) -> list[Row]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        table = csv.reader(file, delimiter=DELIMITERS[path.suffix])
        header = [name.strip() for name in next(table, [])]
        _check_delimiter(path, header)
        if twice := [name for name, number in Counter(filter(None, header)).items() if number > 1]:
            raise ValueError(f"{path} has more than one column for {listing(twice)}: rename or remove one of them")
        rows, odd = [], []
        for cells in table:
            if len(cells) == len(header) and any(map(str.strip, cells)):
                known = [None if (text := cell.strip()) in _EMPTY else text for cell in cells]
                rows.append({name: value for name, value in zip(header, known, strict=True) if name})
            elif any(map(str.strip, cells)):
                odd.append(f"{len(cells)} in line {table.line_num}")
    if odd:
        raise ValueError(
            f"{path} has {len(header)} columns, but not as many cells in each line ({listing(odd)}): correct the "
            "lines, and put quotes around text that holds the delimiter"
        )
    return rows


def _check_delimiter(path: Path, header: Sequence[str]) -> None:
    # not guessed: with semicolons, numbers have decimal commas
    other = next((name for mark, name in _MARKS.items() if len(header) == 1 and mark in header[0]), None)
    if other:
        own = _MARKS[DELIMITERS[path.suffix]]
        raise ValueError(f"{path} has {other} between its columns, but a {path.suffix} has {own}: write it with {own}")
