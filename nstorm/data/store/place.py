"""A folder, or a prefix of an object store, that holds whole objects."""

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore

from nstorm.data.store.record import ATTEMPT, new_attempt

TEMPORARY = re.compile(rf"\.(?P<attempt>{ATTEMPT.pattern})\.tmp")
"""The name of an object while it is written into a local folder."""


class Place:
    """Where a store lies: a local folder, or a URL that fsspec knows, such as ``s3://bucket/store``.

    Objects are written once, whole, and never changed. It can be sent to other processes, and be used after a fork.

    Args:
        path: A folder or a URL.
        storage_options: What fsspec needs to know for a URL, such as credentials.
    """

    def __init__(self, path: str | PathLike[str], storage_options: Mapping[str, Any] | None = None) -> None:
        text = fspath(path).removeprefix("file://")
        self.local = "://" not in text
        # one place has one name, in records as in messages
        self.url = os.path.abspath(text) if self.local else text.rstrip("/")
        self.storage_options = dict(storage_options or {})
        self._opened: tuple[int, AbstractFileSystem, str] | None = None

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}

    def below(self, name: str) -> str:
        """Name an object, for people and for zarr."""
        return f"{self.url}/{name}"

    def put(self, name: str, content: bytes) -> None:
        """Write an object; it is on the disk when this returns, and is never seen in part."""
        if not self.local:
            files, root = self._remote()
            files.pipe_file(f"{root}/{name}", content)
            return
        path = Path(self.url, name)
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            _sync(path.parent.parent)
        temporary = path.with_name(f".{new_attempt()}.tmp")
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)

    def get(self, name: str) -> bytes:
        """Read an object.

        Raises:
            FileNotFoundError: There is none.
        """
        if self.local:
            return Path(self.url, name).read_bytes()
        files, root = self._remote()
        return bytes(files.cat_file(f"{root}/{name}"))

    def names(self, folder: str = "") -> list[str]:
        """List what lies in a folder right now; nothing if there is no such folder."""
        if self.local:
            try:
                return [entry.name for entry in os.scandir(Path(self.url, folder))]
            except (FileNotFoundError, NotADirectoryError):
                return []
        files, root = self._remote()
        try:
            # fsspec would give a listing that it took before
            found = files.ls(f"{root}/{folder}".rstrip("/"), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return [path.rstrip("/").rsplit("/", 1)[1] for path in found]

    def remove(self, name: str) -> None:
        """Remove an object, or a folder with all in it, if it is there."""
        # another process may remove the same
        with suppress(FileNotFoundError):
            if not self.local:
                files, root = self._remote()
                files.rm(f"{root}/{name}", recursive=True)
            elif Path(self.url, name).is_dir():
                shutil.rmtree(Path(self.url, name))
            else:
                Path(self.url, name).unlink()

    def sync(self, folder: str) -> None:
        """Put a folder, all that is in it and its name onto the disk; object stores have done so already."""
        if not self.local:
            return
        base = Path(self.url, folder)
        for parent, _, files in os.walk(base):
            for file in files:
                _sync(Path(parent, file))
            _sync(Path(parent))
        for above in base.parents:
            _sync(above)
            if above == Path(self.url):
                break

    def zarr(self, folder: str, *, read_only: bool = True) -> LocalStore | FsspecStore:
        """Open a folder as zarr does.

        Written from the folder itself: named from further up, zarr puts metadata into every folder on the way, which
        other writers share.
        """
        if self.local:
            return _LocalStore(self.below(folder), read_only=read_only)
        return FsspecStore.from_url(
            self.below(folder), read_only=read_only, storage_options=self.storage_options or None
        )

    def _remote(self) -> tuple[AbstractFileSystem, str]:
        # fsspec's event loop does not live through a fork: one file system a process
        if self._opened is None or self._opened[0] != os.getpid():
            fresh = {} if self.url.startswith("memory:") else {"skip_instance_cache": True, "use_listings_cache": False}
            try:
                files, root = fsspec.url_to_fs(self.url, **self.storage_options, **fresh)
            except (ImportError, ValueError) as error:
                raise ValueError(f"{self.url} cannot be opened by fsspec: {error}") from error
            self._opened = (os.getpid(), files, root)
        return self._opened[1], self._opened[2]


class _LocalStore(LocalStore):
    """Reads in zarr's own thread: in others, reading costs twice the time, in page faults of fresh memory."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        return self.get_sync(key, prototype=prototype, byte_range=byte_range)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
