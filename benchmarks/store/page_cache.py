"""What of files lies in the system's memory (Linux): all of it, or nothing."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 1 << 22


def files_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in files_below(folder))


def load(folder: Path) -> None:
    """Read all files once, so that they are in memory."""
    for path in files_below(folder):
        with open(path, "rb", buffering=0) as file:
            while file.read(_BLOCK):
                pass


def drop(folder: Path) -> None:
    """Drop all files from memory. Pages that are not on the disk yet would stay, so they are written first."""
    for path in files_below(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_bytes(folder: Path) -> int:
    """How much of the files is in memory; asking loads nothing."""
    return sum(map(_resident, files_below(folder)))


def _resident(path: Path) -> int:
    size = path.stat().st_size
    if not size:
        return 0
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    # a private mapping that may be written gives an address, and changes no file
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(start), ctypes.c_size_t(size), pages)
        del start
    if failed:
        raise OSError(ctypes.get_errno(), "mincore failed", str(path))
    return sum(page & 1 for page in pages) * mmap.PAGESIZE
