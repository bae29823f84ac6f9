"""Checkpoints as files: whole or not there, the last few of them."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import ZipFile

import torch

_NAME = "step-{:09d}.pt"
_PATTERN = "step-*.pt"


class CheckpointFiles:
    """The checkpoints of a training in a folder, by their steps.

    Args:
        folder: of nothing else; it is made with the first.
        keep: how many of the last ones stay.

    Raises:
        ValueError: if `keep` is below 1.

    Example:
        >>> import tempfile
        >>> from nstorm.workflows.resuming.checkpoint_files import CheckpointFiles
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = CheckpointFiles(folder, keep=2)
        ...     for step in (10, 20, 30):
        ...         files.write(step, {"step": step})
        ...     [path.name for path in files.paths()], files.newest()[1]
        (['step-000000020.pt', 'step-000000030.pt'], {'step': 30})
    """

    def __init__(self, folder: str | PathLike[str], keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}, but at least the last checkpoint has to stay: give 1 or more")
        self.folder = Path(folder)
        self.keep = keep
        self._was_read_back = False

    def paths(self) -> list[Path]:
        """All there are, the newest last."""
        return sorted(self.folder.glob(_PATTERN))

    def write(self, step: int, content: dict[str, Any]) -> None:
        """Write a checkpoint, and remove all before the last `keep`.

        Raises:
            ValueError: if it holds what could not be read again.
        """
        from nstorm.data.files.atomic import written_whole

        path = self.folder / _NAME.format(step)
        with written_whole(path, overwrite=True) as temporary:
            with temporary.open("wb") as file, _with_checksums():
                torch.save(content, file)
                file.flush()
                # on the disk before it gets its name, or a crash of the machine could leave it empty
                os.fsync(file.fileno())
            if not self._was_read_back:
                _refuse_unreadable(temporary)
                self._was_read_back = True
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Read the newest one that is whole; None if there is none at all.

        Damaged ones are warned of, and put aside under another name.

        Raises:
            ValueError: if all are damaged.
        """
        self._sweep()
        damaged: list[tuple[Path, str]] = []
        for path in reversed(self.paths()):
            # a disk or a right that fails is no damage, and passes
            written = BytesIO(path.read_bytes())
            try:
                content = _read(written)
            except Exception as error:
                damaged.append((path, (str(error) or type(error).__name__).splitlines()[0]))
                continue
            for other, reason in damaged:
                aside = other.rename(other.with_name(f"{other.name}.damaged"))
                warnings.warn(
                    f"checkpoint {other} is damaged and renamed to {aside.name}, and {path.name} is used ({reason})",
                    stacklevel=2,
                )
            return path, content
        if damaged:
            from nstorm.data.wording import counted

            raise ValueError(
                f"{self.folder} holds {counted(len(damaged), 'checkpoint')}, but none that can be read "
                f"({damaged[0][1]}): remove them, or give another folder, to begin anew"
            )
        return None

    def _sweep(self) -> None:
        # what processes left that were killed while they wrote
        for path in self.folder.glob(f".*-{_PATTERN}"):
            path.unlink(missing_ok=True)


def _read(written: BytesIO) -> dict[str, Any]:
    # torch does not look at the checksums that it writes
    with ZipFile(written) as file:
        if (name := file.testzip()) is not None:
            raise ValueError(f"the checksum of {name} is another")
    written.seek(0)
    content: dict[str, Any] = torch.load(written, map_location="cpu", weights_only=True)
    return content


@contextmanager
def _with_checksums() -> Iterator[None]:
    was = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(was)


def _refuse_unreadable(path: Path) -> None:
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"a checkpoint would hold what torch.load(weights_only=True) does not read again: {reason}; states have to "
            "be of tensors, numbers, texts, lists and dicts"
        ) from error
