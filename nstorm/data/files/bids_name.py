"""What the name of a BIDS file says."""

from os import PathLike
from pathlib import Path


def bids_entities(path: str | PathLike[str]) -> dict[str, str]:
    """Read the entities and the suffix from the name of a BIDS file; folders are not looked at.

    Args:
        path: A file, which need not exist.

    Returns:
        The value of each entity under its short name (``sub``, ``ses``, ``task``, ``run``, ``space``, ``desc`` and so
        on), in the order of the name, then ``suffix``. A name outside BIDS has no entities and gives nothing.

    References:
        https://bids-specification.readthedocs.io, "Filenames" among its common principles.

    Example:
        >>> from nstorm.data.files.bids_name import bids_entities
        >>> bids_entities("sub-01_ses-2_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz")
        {'sub': '01', 'ses': '2', 'task': 'rest', 'space': 'MNI152NLin6Asym', 'desc': 'preproc', 'suffix': 'bold'}
    """
    parts = Path(path).name.split(".")[0].split("_")
    entities = {}
    for part in parts:
        key, _, value = part.partition("-")
        if key and value:
            entities[key] = value
    if entities and "-" not in parts[-1]:
        entities["suffix"] = parts[-1]
    return entities
