"""What messages say in the same words."""

from collections.abc import Sequence


def some_of(items: Sequence[object], most: int = 8) -> str:
    """List the first of many items: ``01, 02, 03 and 4 more``."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def counted(number: int, noun: str) -> str:
    """Write ``1 run`` or ``6,000 runs``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
