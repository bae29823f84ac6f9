"""Progress bars, where somebody sees them move."""

import sys
from typing import Any


def bar(*args: Any, show: bool, **options: Any) -> Any:
    """Make a progress bar for a terminal or a notebook; a log, which would keep every state of it, gets none.

    Args:
        args: Of tqdm.
        show: Whether to show it.
        options: Of tqdm.
    """
    from tqdm import tqdm

    is_seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(*args, disable=not (show and is_seen), **options)
