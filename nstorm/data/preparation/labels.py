"""What is known of a run beside its files."""

from collections.abc import Mapping
from typing import Any

from nstorm.data.preparation.sources import FILES


def labels_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """Give the labels of an item: all but its files and its TR, which the store has of its own.

    Labels that are not known, ``""`` and NaN, stay, so that all runs of a store have the same ones.

    Raises:
        ValueError: A label is neither text nor a number.
    """
    labels = {name: _plain(value) for name, value in item.items() if name not in (*FILES, "tr")}
    for name, value in labels.items():
        if not isinstance(value, str | int | float):
            raise ValueError(
                f"the label {name} of {item['image']} is a {type(value).__name__}, but a store keeps text and numbers: "
                "convert it, or leave it out"
            )
    return labels


def _plain(value: Any) -> Any:
    # numbers of numpy and pandas
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
