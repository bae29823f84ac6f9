"""A split of a study into training, validation and test that can be saved, checked and used again."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from nstorm.data.clips.items import listing, run_of, subject_of
from nstorm.data.files.atomic import written_whole

UNITS = {"subject": subject_of, "run": run_of}

Item = TypeVar("Item", bound=Mapping[str, Any])

_logger = logging.getLogger("nstorm.data")


@dataclass(frozen=True)
class Split:
    """Which subjects, or which runs, belong to which part.

    It holds names and neither files nor clips, so that it goes with a study from machine to machine.

    Attributes:
        parts: The units of each part, sorted.
        unit: What is held together: ``"subject"``, or ``"run"`` for splits within persons.
        method: How the split was made.
        seed: The seed of the draw; None where nothing was drawn.

    Raises:
        ValueError: A part is empty, a unit is in two parts, or ``unit`` is neither of the two.

    Example:
        >>> from nstorm.data.splits.split import Split
        >>> split = Split({"train": ["02", "01"], "test": ["03"]})
        >>> split["train"]
        ('01', '02')
        >>> runs = [{"image": "a.nii", "subject": "03"}, {"image": "b.nii", "subject": "01"}]
        >>> {part: len(items) for part, items in split.apply(runs).items()}
        {'train': 1, 'test': 1}
    """

    parts: Mapping[str, Sequence[str]]
    unit: str = "subject"
    method: str = "by hand"
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit is {self.unit!r}, but a split holds apart one of {', '.join(UNITS)}")
        # "sub-01" of a table of participants is the "01" of a file
        named = {
            part: [subject_of({"subject": name}) for name in units] if self.unit == "subject" else units
            for part, units in self.parts.items()
        }
        part_of: dict[str, str] = {}
        for part, units in named.items():
            if not units:
                raise ValueError(f"the part {part!r} has no {self.unit}: give it one or more, or leave the part out")
            for unit in units:
                if unit in part_of:
                    raise ValueError(
                        f"the {self.unit} {unit!r} is in {part_of[unit]!r} and in {part!r}: keep it in one, once"
                    )
                part_of[unit] = part
        object.__setattr__(self, "parts", {part: tuple(sorted(units)) for part, units in named.items()})

    def __getitem__(self, part: str) -> tuple[str, ...]:
        return tuple(self.parts[part])

    def apply(self, items: Iterable[Item]) -> dict[str, list[Item]]:
        """Sort run items or clip items into the parts, keeping their order.

        Units of the split that have no item are reported to the logger ``nstorm.data``.

        Raises:
            ValueError: An item has no subject, or its subject or run is not in the split.
        """
        part_of = {unit: part for part, units in self.parts.items() for unit in units}
        name_of = UNITS[self.unit]
        sorted_items: dict[str, list[Item]] = {part: [] for part in self.parts}
        seen, unknown = set(), set()
        for item in items:
            unit = name_of(item)
            if unit in part_of:
                sorted_items[part_of[unit]].append(item)
                seen.add(unit)
            else:
                unknown.add(unit)
        if unknown:
            raise ValueError(
                f"{len(unknown)} {self.unit}s of the items are not in the split ({listing(unknown)}): "
                "leave their items out, or make a new split"
            )
        for part, units in self.parts.items():
            if absent := set(units) - seen:
                _logger.warning(
                    "%d of the %d %ss of %r have no item: %s", len(absent), len(units), self.unit, part, listing(absent)
                )
        return sorted_items

    @property
    def sha256(self) -> str:
        """The hash of the content, which tells two splits apart wherever they are reported."""
        return sha256(json.dumps(self._content(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def save(self, path: str | PathLike[str]) -> None:
        """Write the split and its hash as JSON; another split is never overwritten.

        Raises:
            FileExistsError: The file holds something else than this split.
        """
        path = Path(path)
        text = json.dumps({**self._content(), "sha256": self.sha256}, indent=1) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise FileExistsError(f"{path} holds something else than this split: give another name, or remove the file")
        with written_whole(path, overwrite=True) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Split":
        """Read a split that :meth:`save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is no split, or was changed after it was saved.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            stored = content.pop("sha256")
            split = cls(**content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no split of nstorm ({error}): write one with Split.save") from error
        if split.sha256 != stored:
            raise ValueError(
                f"{path} was changed after it was saved (its content has the SHA-256 {split.sha256}, not {stored}): "
                "take the original file, or make and save a new split"
            )
        return split

    def _content(self) -> dict[str, Any]:
        parts = {part: list(units) for part, units in self.parts.items()}
        return {"parts": parts, "unit": self.unit, "method": self.method, "seed": self.seed}
