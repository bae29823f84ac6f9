"""The runs that a table lists."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nstorm.data.clips.items import FILES, IDENTITY
from nstorm.data.study.runs import VERSION
from nstorm.data.study.table import Row, is_unknown, read_table, write_table
from nstorm.data.wording import counted, some_of


def manifest_runs(path: Path) -> list[Row]:
    """Read the runs that a manifest lists; its files are named from its own folder.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no table, lists nothing, or has rows without an image or with a ``tr`` that is no
            number.
    """
    rows = read_table(path, text={*IDENTITY, *FILES, *VERSION})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not rows:
        raise ValueError(f"{path} lists no runs: write a row for each, with its file in the column image")
    if "image" not in columns:
        raise ValueError(
            f"{path} lists no runs: write a row for each, with its file in the column image (the columns are {columns})"
        )
    bare = [number for number, row in enumerate(rows, 1) if is_unknown(row.get("image"))]
    untimed = [number for number, row in enumerate(rows, 1) if not _is_time(row.get("tr"))]
    for numbers, fault in ((bare, "no image"), (untimed, "a tr that is no number of seconds")):
        if numbers:
            raise ValueError(
                f"{path} has {fault} in {counted(len(numbers), 'row')} ({some_of(numbers, 5)}; 1 is the first below "
                "the header): correct or remove what is wrong"
            )
    folder = os.path.abspath(path.parent)
    rows = [row if is_unknown(row.get("tr")) else {**row, "tr": float(row["tr"])} for row in rows]
    return [{key: _from(folder, key, value) for key, value in row.items()} for row in rows]


def write_manifest(path: Path, runs: Sequence[Mapping[str, Any]], *, overwrite: bool) -> None:
    """Write runs as :func:`manifest_runs` reads them; files below the manifest's folder are named from there."""
    folder = os.path.abspath(path.parent)
    rows = [{key: _towards(folder, key, value) for key, value in run.items()} for run in runs]
    write_table(path, rows, overwrite=overwrite)


def _is_time(value: Any) -> bool:
    try:
        return is_unknown(value) or float(value) > 0
    except (TypeError, ValueError):
        return False


def _from(folder: str, key: str, value: Any) -> Any:
    return os.path.join(folder, value) if key in FILES and not is_unknown(value) else value


def _towards(folder: str, key: str, value: Any) -> Any:
    if key not in FILES or not value:
        return value
    path = os.path.abspath(value)
    return os.path.relpath(path, folder) if path.startswith(os.path.join(folder, "")) else path
