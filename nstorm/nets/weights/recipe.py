"""How a net is built again, as a file keeps it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """How a net is built again.

    Attributes:
        net: its class: of nstorm's own without its module, and with it of all others.
        arguments: of its constructor; None if they could not be kept.
        why_no_arguments: why not, in words.
    """

    net: str
    arguments: dict[str, Any] | None = None
    why_no_arguments: str = ""
