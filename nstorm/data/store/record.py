"""What a store says of a run in one small object, whose being there makes the run part of the store."""

import json
import math
import re
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

FORMAT = "nstorm-run"
SCHEMA = 1
COMMITS = "commits"
RUNS = "runs"

ATTEMPT = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{8}")
NAME = re.compile(rf"(?P<key>.+)\.(?P<attempt>{ATTEMPT.pattern})\.json")
# what every file system and object store takes as the name of a file, with room for the attempt's
_KEY = re.compile(r"(?!\.)[A-Za-z0-9_.+~=-]{1,200}")


@dataclass(frozen=True)
class RunRecord:
    """The record of a run.

    Attributes:
        key: Names the run: ``sub-01_ses-2_task-rest_run-1``.
        attempt: Names this writing of the record: when it began, in UTC, and a random number.
        arrays: Names the attempt that wrote the arrays; another one where only the labels were written again.
        labels: What is known of the run: subject, session, task, site, age and so on.
        num_frames: Number of frames.
        num_voxels: Number of voxels in the brain.
        shape: Of the whole grid.
        affine: From voxel indices to mm, 4x4.
        tr: The repetition time in seconds.
        start_time: The time of the first frame after the start of the recording, in seconds.
        dtype: The type of the codes.
        far: The frames that are kept a second time in float16.
        space_code: NIfTI's code of the space, 4 for MNI152.
        sources: The files that the arrays follow from, by what they are (``image``, ``mask``): ``path``, ``size``,
            ``mtime_ns`` and ``sha256`` of each; and the ``tr`` that was read of them.
        recipe: Digest of the parameters that the arrays follow from.
        checksums: SHA-256 of the arrays, by their names.
    """

    key: str
    attempt: str
    arrays: str
    labels: Mapping[str, Any]
    num_frames: int
    num_voxels: int
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    tr: float
    start_time: float
    dtype: str
    far: tuple[int, ...]
    space_code: int
    sources: Mapping[str, Mapping[str, Any]]
    recipe: str
    checksums: Mapping[str, str]

    @property
    def name(self) -> str:
        """Name of the object that holds the record."""
        return f"{COMMITS}/{self.key}.{self.attempt}.json"

    @property
    def folder(self) -> str:
        """Name of the folder that holds the arrays."""
        return f"{RUNS}/{self.key}/{self.arrays}"

    def to_json(self) -> bytes:
        """Write the record.

        Raises:
            ValueError: A label is something that JSON does not have.
        """
        try:
            # JSON has no NaN, which stands for a label that is not known
            labels = {name: None if value != value else value for name, value in self.labels.items()}
            entries = {**asdict(self), "labels": labels}
            return json.dumps({"format": FORMAT, "schema": SCHEMA, "crc32": crc32(entries), **entries}).encode()
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the record of {self.key} cannot be written as JSON ({error}): give labels that are text, finite "
                "numbers or NaN"
            ) from error

    @classmethod
    def from_json(cls, content: bytes, where: str) -> "RunRecord":
        """Read a record.

        Raises:
            ValueError: It is damaged, or of a version that is not known.
        """
        try:
            entries = json.loads(content)
            if entries.pop("format") != FORMAT:
                raise ValueError("another format")
            schema, checksum = entries.pop("schema"), entries.pop("crc32")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{where} is damaged or no record of a run: prepare the run again") from error
        if schema != SCHEMA:
            raise ValueError(
                f"{where} has schema version {schema}, but this nstorm reads version {SCHEMA}: use the nstorm that "
                "wrote it, or prepare the study again"
            )
        if checksum != crc32(entries) or entries.keys() != _NAMES:
            raise ValueError(f"{where} is damaged (its checksum is another one): prepare the run again")
        labels = {name: math.nan if value is None else value for name, value in entries["labels"].items()}
        tuples = {name: tuple(entries[name]) for name in ("shape", "far")}
        return cls(**{**entries, **tuples, "affine": tuple(map(tuple, entries["affine"])), "labels": labels})


_NAMES = {field.name for field in fields(RunRecord)}


def check_key(key: str) -> None:
    """Refuse the name of a run that cannot be the name of a file everywhere.

    Raises:
        ValueError: It has other characters, or is empty or too long.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"a run cannot have the name {key!r} in a store: it takes 1 to 200 letters from A to Z, digits and -_.+~=, "
            "and no dot first; nstorm.data.clips.items.run_of makes such names"
        )


def crc32(entries: Mapping[str, Any]) -> int:
    """Give a checksum of entries, as JSON has them.

    Raises:
        ValueError: There is NaN among them.
        TypeError: There is something among them that JSON does not have.
    """
    return zlib.crc32(json.dumps(entries, allow_nan=False).encode())


def new_attempt() -> str:
    """Name an attempt; names sort by time, and no two are alike."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{secrets.token_hex(4)}"


def days_since(attempt: str) -> float:
    """Tell how long ago an attempt began, in days."""
    began = datetime.strptime(attempt.split("-")[0], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
    return (datetime.now(UTC) - began).total_seconds() / 86400
