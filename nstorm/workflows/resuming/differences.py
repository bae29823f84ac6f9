"""What differs between what was saved and what there is."""

from collections.abc import Mapping
from typing import Any


def refuse_differences(what: str, saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise if two mappings differ.

    Raises:
        ValueError: it names the first of what differs.
    """
    found = [
        f"{name} is {_said(saved, name)} there and {_said(here, name)} here"
        for name in {**here, **saved}
        if name not in saved or name not in here or saved[name] != here[name]
    ]
    if found:
        from nstorm.data.wording import some_of

        raise ValueError(f"{what}: {some_of(found, 4)}")


def _said(values: Mapping[str, Any], name: str) -> str:
    return str(values[name]) if name in values else "not"
