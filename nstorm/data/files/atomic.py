"""Files that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def written_whole(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary name beside ``path``, with the same ending; at the end that file takes the place of ``path``.

    If the writing fails, the temporary file is removed and ``path`` is as it was.

    Raises:
        FileExistsError: There is such a file, and it is not to be overwritten.
    """
    if not overwrite and path.exists():
        raise FileExistsError(f"{path} is there already: give another name, or pass overwrite=True")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid4().hex}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
