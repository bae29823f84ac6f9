"""The runs of folders that are laid out by a pattern, such as HCP's."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Formatter
from typing import TypeAlias

from nstorm.data.in_threads import in_threads
from nstorm.data.study.selection import item_key
from nstorm.data.study.table import Row


@dataclass(frozen=True)
class Field:
    """A field of a pattern and the regular expression of its values."""

    name: str
    expression: str


# the name of a folder or file, as text and fields in turn
Component: TypeAlias = list[str | Field]
# a path, and the fields that are known from it
Branch: TypeAlias = tuple[str, dict[str, str]]


def pattern_runs(folder: Path, image: str, companions: Mapping[str, str | None]) -> list[Row]:
    """Find the images that a pattern describes, with their fields and the paths that other patterns give for these.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: No image fits, a pattern is none, or one of ``companions`` has a field that ``image`` lacks.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: give the one that the pattern starts in")
    components = [component for component in _components(image) if component != [""]]
    fields = {token.name for component in components for token in component if isinstance(token, Field)}
    patterns = {key: _components(pattern) for key, pattern in companions.items() if pattern is not None}
    for key, pattern in patterns.items():
        _check_companion(key, pattern, fields)

    root = os.path.abspath(folder)
    branches: list[Branch] = [(root, {})]
    for number, component in enumerate(components, 1):
        step = partial(_step, component, number == len(components))
        further = [branch for several in in_threads(step, branches) for branch in several]
        if not further:
            raise ValueError(f"nothing in {folder} fits {image!r}: {_dead_end(branches, component)}")
        branches = further
    return [
        {
            "image": path,
            **{item_key(name): value for name, value in known.items()},
            **{key: _filled(root, pattern, known) for key, pattern in patterns.items()},
        }
        for path, known in branches
    ]


def _components(pattern: str) -> list[Component]:
    components: list[Component] = [[]]
    try:
        for text, name, expression, _ in Formatter().parse(pattern):
            first, *others = text.split("/")
            components[-1].append(first)
            components += [[other] for other in others]
            if name is not None:
                # a field is a group of a regular expression
                re.compile(f"(?P<{name}>{expression})")
                components[-1].append(Field(name, expression or "[^/]+"))
    except (ValueError, re.error) as error:
        raise ValueError(
            f"{pattern!r} is no pattern of paths ({error}): write fields as {{subject}}, or with a regular expression, "
            r"as {subject:\d{6}} and {direction:LR|RL}"
        ) from error
    return components


def _check_companion(key: str, components: list[Component], fields: set[str]) -> None:
    for component in components:
        for token in component:
            if isinstance(token, Field) and token.name not in fields:
                raise ValueError(
                    f"the pattern of {key} has the field {token.name!r}, but that of the image only {sorted(fields)}: "
                    "use these"
                )
            if isinstance(token, str) and "*" in token:
                raise ValueError(f"the pattern of {key} has a *, but it has to name one file: use fields")


def _step(component: Component, last: bool, branch: Branch) -> list[Branch]:
    path, known = branch
    if all(token.name in known if isinstance(token, Field) else "*" not in token for token in component):
        path = os.path.join(path, _plain(component, known))
        # folders on the way show when they are listed
        return [(path, known)] if not last or os.path.isfile(path) else []
    expression = re.compile("".join(_expressions(component, known)))
    try:
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    matches = ((name, expression.fullmatch(name)) for name in names)
    return [(os.path.join(path, name), known | match.groupdict()) for name, match in matches if match]


def _expressions(component: Component, known: Mapping[str, str]) -> Iterator[str]:
    seen = set()
    for token in component:
        if isinstance(token, str):
            yield re.escape(token).replace(r"\*", "[^/]*")
        elif token.name in known:
            yield re.escape(known[token.name])
        elif token.name in seen:
            yield f"(?P={token.name})"
        else:
            seen.add(token.name)
            yield f"(?P<{token.name}>{token.expression})"


def _dead_end(branches: list[Branch], component: Component) -> str:
    path = Path(branches[0][0])
    if there := next((branch for branch, _ in branches if os.path.isdir(branch)), None):
        return f"{there} fits so far, but there is no {_written(component)!r} in it"
    last = next(parent for parent in path.parents if parent.is_dir())
    return f"{last} fits so far, but there is no {path.relative_to(last).parts[0]!r} in it"


def _plain(component: Component, known: Mapping[str, str]) -> str:
    return "".join(known[token.name] if isinstance(token, Field) else token for token in component)


def _filled(root: str, components: list[Component], known: Mapping[str, str]) -> str:
    return os.path.join(root, "/".join(_plain(component, known) for component in components))


def _written(component: Component) -> str:
    return "".join(f"{{{token.name}}}" if isinstance(token, Field) else token for token in component)
