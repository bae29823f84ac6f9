"""Values that a BIDS image inherits from the JSON sidecars beside and above it."""

import json
import os
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
    entities, suffix = _name_parts(image)
    for folder in image.parents[: NUM_PARENTS + 1]:
        found: list[tuple[int, Path, Any]] = []
        for sidecar in sorted(folder.glob("*.json")):
            sidecar_entities, sidecar_suffix = _name_parts(sidecar)
            if sidecar_suffix == suffix and sidecar_entities <= entities:
                content = _read(sidecar)
                if key in content:
                    found.append((len(sidecar_entities), sidecar, content[key]))
        if found:
            most = max(num_entities for num_entities, _, _ in found)
            (_, first, value), *others = [entry for entry in found if entry[0] == most]
            for _, other, other_value in others:
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


def _name_parts(path: Path) -> tuple[frozenset[str], str]:
    *entities, suffix = stem(path).split("_")
    return frozenset(entities), suffix


def _read(sidecar: Path) -> dict[str, Any]:
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{sidecar} is not valid JSON ({error}): correct or remove it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{sidecar} holds a JSON {type(content).__name__}, not an object: correct or remove it")
    return content
