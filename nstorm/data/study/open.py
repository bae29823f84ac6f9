"""A study from wherever it is described."""

from os import PathLike
from pathlib import Path
from typing import Literal

from nstorm.data.study.selection import Wanted, item_key
from nstorm.data.study.study import Study
from nstorm.data.study.table import TABLES, Table

# what a BIDS tree is asked for before all of it is looked at
_OF_BIDS = {"subject": "subjects", **{key: key for key in ("space", "res", "desc", "task", "session", "run")}}


def open_study(
    path: str | PathLike[str], *, participants: "Table | Literal[False] | None" = None, **wanted: Wanted
) -> Study:
    """Find the runs of a BIDS tree, or read those that a manifest lists.

    Args:
        path: The folder that holds ``sub-*`` (:meth:`Study.from_bids`), or a ``.csv``, ``.tsv`` or ``.json`` file
            (:meth:`Study.from_manifest`).
        participants: The table of labels of a BIDS tree, as :meth:`Study.from_bids` takes it.
        wanted: What to keep, by key, as :meth:`Study.where` takes it: ``space="MNI152NLin2009cAsym"``, ``task="rest"``,
            ``subjects=["01", "02"]``. None keeps all.

    Raises:
        FileNotFoundError: There is no such folder or file.
        ValueError: The file is no table, or no run is left.

    Example:
        >>> import tempfile
        >>> from nstorm.data import Study, haxby_runs
        >>> from nstorm.data.study.open import open_study
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Study({"image": run.bold} for run in haxby_runs()).to_manifest(f"{folder}/runs.csv")
        ...     len(open_study(f"{folder}/runs.csv", run=[1, 2, 3]))
        3
    """
    path = Path(path)
    wanted = {item_key(name): values for name, values in wanted.items() if values is not None}
    if path.is_dir():
        of_bids = {_OF_BIDS[key]: wanted.pop(key) for key in _OF_BIDS if key in wanted}
        study = Study.from_bids(path, participants=participants, **of_bids)  # type: ignore[arg-type]
    elif not path.exists():
        raise FileNotFoundError(f"{path} is not there: give a BIDS folder, or a manifest ({', '.join(TABLES)})")
    elif path.suffix in TABLES:
        study = Study.from_manifest(path)
    else:
        raise ValueError(f"{path} is neither a BIDS folder nor a manifest ({', '.join(TABLES)}): give one of them")
    return study.where(**wanted) if wanted else study
