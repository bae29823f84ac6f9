"""Values that a BIDS image inherits from the JSON sidecars beside and above it."""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from nstorm.data.files.atomic import written_whole

NUM_PARENTS = 3


def inherited_value(image: Path, key: str) -> tuple[Path, Any] | None:
    """Find the value of ``key`` that applies to an image by the BIDS inheritance principle.

    A sidecar applies if its suffix equals the image's and its entities are a subset of the image's, so that
    ``task-rest_bold.json`` applies to ``sub-01_task-rest_space-MNI152_bold.nii.gz``. The image's folder is
    searched first, then up to three parents; a folder that holds ``dataset_description.json`` is the last
    one. The nearest folder with a value wins, and within it the sidecar with the most entities.

    Returns:
        The sidecar and its value, or None where no sidecar has the key.

    Raises:
        ValueError: A sidecar that applies is no JSON object, or two equally specific ones disagree.
    """
    # A git-annex image is a symlink to a file of another name elsewhere: resolve() would look there.
    image = Path(os.path.abspath(image))
    for folder in image.parents[: NUM_PARENTS + 1]:
        for equals in _applicable(folder, image):
            found = [(sidecar, content[key]) for sidecar in equals if key in (content := _read(sidecar))]
            if found:
                (first, value), *others = found
                for other, other_value in others:
                    if other_value != value:
                        raise ValueError(
                            f"{first} and {other} apply equally to {image.name} but give {key} {value!r} and "
                            f"{other_value!r}: correct or remove one of them"
                        )
                return first, value
        if (folder / "dataset_description.json").exists():
            return None
    return None


def write_value(image: Path, key: str, value: Any) -> Path:
    """Write a value to the sidecar of an image's own name, which is the first to apply; what else is in it stays.

    Raises:
        ValueError: There is such a file, and it is no JSON object.
    """
    sidecar = image.with_name(f"{stem(image)}.json")
    content = {**(_read(sidecar) if sidecar.exists() else {}), key: value}
    with written_whole(sidecar, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return sidecar


def stem(image: Path) -> str:
    """The name of an image without ``.nii``, ``.nii.gz`` or the like."""
    return Path(image.name.removesuffix(".gz")).stem


def _applicable(folder: Path, image: Path) -> Iterator[list[Path]]:
    """Give the sidecars of a folder that apply to an image, the most specific first, equally specific ones together."""
    own = folder / f"{stem(image)}.json"
    if own.is_file():
        yield [own]
    by_number: dict[int, list[Path]] = defaultdict(list)
    for name in sorted(_names(folder, image) - {own.name}):
        by_number[name.count("_")].append(folder / name)
    for number in sorted(by_number, reverse=True):
        yield by_number[number]


def _names(folder: Path, image: Path) -> set[str]:
    *entities, suffix = stem(image).split("_")
    subject = {entity for entity in entities if entity.startswith("sub-")}
    if subject & set(folder.parts):
        return {name for name in _listed(folder) if _applies(name, set(entities), suffix)}
    # A study's folder has as many entries as subjects: it is asked for each name that could apply, of which those with
    # the subject and session belong below.
    below = image.relative_to(folder).parts
    free = [entity for entity in entities if "-" in entity and entity not in below]
    chosen = (some for number in range(len(free) + 1) for some in combinations(free, number))
    names = ("_".join((*some, suffix)) + ".json" for some in chosen)
    return {name for name in names if os.path.isfile(os.path.join(folder, name))}


def _applies(name: str, entities: set[str], suffix: str) -> bool:
    *own, last = name.removesuffix(".json").split("_")
    return name.endswith(".json") and last == suffix and entities.issuperset(own)


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _read(sidecar: Path) -> dict[str, Any]:
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{sidecar} is not valid JSON ({error}): correct or remove it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{sidecar} holds a JSON {type(content).__name__}, not an object: correct or remove it")
    return content
