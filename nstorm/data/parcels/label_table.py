"""Names of the values of a label image, from the text files that atlases come with."""

import csv
from pathlib import Path

_REMEDY = "give a table with the columns index and name, or pass labels as a mapping {value: name}"


def read_label_names(path: Path) -> dict[int, str]:
    """Read the name of each value from a text file.

    The file is a table with the columns ``index`` and ``name`` (BIDS ``dseg.tsv``; tabs or commas), or its lines begin
    with a value and a name, followed by numbers at most (look-up tables of FreeSurfer, AAL). Empty lines and
    comments, which begin with ``#``, are passed over.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line gives no value and name, a value has two names, or the file names no values.

    Example:
        >>> from importlib.resources import files
        >>> from nstorm.data.parcels.label_table import read_label_names
        >>> table = files("nstorm.data") / "atlases" / "schaefer2018" / "Schaefer2018_100Parcels_7Networks.tsv"
        >>> read_label_names(table)[100]
        '7Networks_RH_Default_pCunPCC_2'
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file ({error}): {_REMEDY}") from error
    names: dict[int, str] = {}
    index, name, is_table = 0, 1, False
    for number, line in enumerate(lines, start=1):
        # in a table "#" may begin a colour
        if not line.strip() or (line.startswith("#") and not is_table):
            continue
        fields = _fields(line)
        header = [field.lower() for field in fields]
        if not names and {"index", "name"} <= set(header):
            index, name, is_table = header.index("index"), header.index("name"), True
            continue
        try:
            value, label = int(fields[index]), fields[name]
        except (ValueError, IndexError):
            label = ""
        if not label:
            raise ValueError(f"{path}, line {number}: {line!r} gives no value and name: {_REMEDY}")
        if names.setdefault(value, label) != label:
            raise ValueError(f"{path}, line {number}: {value} is {names[value]!r} and {label!r}: name each value once")
    if not names:
        raise ValueError(f"{path} names no values: {_REMEDY}")
    return names


def _fields(line: str) -> list[str]:
    delimiter = "\t" if "\t" in line else ","
    if delimiter in line:
        return [field.strip() for field in next(csv.reader([line.strip()], delimiter=delimiter))]
    fields = line.split()
    # in "1 Frontal Pole 205 130 176 0" only the numbers that follow, colours mostly, tell where the name ends
    while len(fields) > 2 and fields[-1].replace(".", "", 1).isdigit():
        fields.pop()
    return [fields[0], " ".join(fields[1:])]
