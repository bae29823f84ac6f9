"""Uncompressed copies of runs, from which a clip is read without what comes before it."""

import gzip
import shutil
import zlib
from os import PathLike
from pathlib import Path

from nstorm.data.files.atomic import written_whole
from nstorm.data.files.nifti import unreadable
from nstorm.data.files.sidecar import inherited_value, write_value

_BLOCK = 1 << 20


def decompress(path: str | PathLike[str], folder: str | PathLike[str] | None = None) -> Path:
    """Write an uncompressed copy of a ``.nii.gz`` file, and check the whole of it.

    Any 20 frames of an uncompressed run are read in the same short time, while a compressed one is unpacked from its
    beginning for every clip. The copy takes two to four times the space of the file, and
    appears when it is whole.

    Args:
        path: The ``.nii.gz`` file; it stays.
        folder: Where the copy goes; it is made. By default beside the file, where it has the same BIDS sidecars. In
            another folder the repetition time of a sidecar is written to one beside the copy.

    Returns:
        The path of the copy, ``.nii``.

    Raises:
        FileExistsError: There is such a copy already.
        ValueError: The file is no ``.nii.gz`` file, or is damaged.

    Example:
        >>> import tempfile
        >>> from nstorm.data import haxby_runs
        >>> from nstorm.data.files.decompress import decompress
        >>> from nstorm.data.files.reader import BOLDFile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     copy = decompress(haxby_runs()[0].bold, folder)
        ...     print(BOLDFile(copy).compressed, copy.name)
        False sub-001_task-objectviewing_run-01_res-1slice_bold.nii
    """
    path = Path(path)
    if not path.name.endswith(".nii.gz"):
        raise ValueError(f"{path} does not end in .nii.gz: only gzip files are unpacked")
    copy = (path.parent if folder is None else Path(folder)) / path.name.removesuffix(".gz")
    if copy.exists():
        raise FileExistsError(f"{copy} is there already: read it, or remove it if it is no copy of {path}")
    with (
        written_whole(copy, overwrite=False) as temporary,
        gzip.open(path) as packed,
        open(temporary, "wb") as unpacked,
    ):
        try:
            shutil.copyfileobj(packed, unpacked, _BLOCK)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise unreadable(path, error) from error
    if folder is not None and (inherited := inherited_value(path, "RepetitionTime")) is not None:
        write_value(copy, "RepetitionTime", inherited[1])
    return copy
