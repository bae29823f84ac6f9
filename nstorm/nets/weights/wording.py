"""How messages about weights list things."""

from collections.abc import Sequence


def listed(names: Sequence[str], most: int = 6) -> str:
    """List the first of many names: ``a, b, c and 4 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def tensors(number: int) -> str:
    """Write ``1 tensor`` or ``6,000 tensors``."""
    return f"{number:,} tensor{'s' * (number != 1)}"
