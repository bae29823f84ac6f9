"""How the CPU kernels' work is cut into units that run independently."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# Shapes and resets alone decide how work is cut, never the number of threads, so that sums are always added in one
# order.
_MAX_RUNS = 64
_FEW = 16
_SLAB = 32
_MIN_TOKENS = 128


@dataclass(frozen=True)
class Units:
    """The units of work, one a row of `table`.

    Its columns are the first and last sequence, the first and last channel, the first and last token (each "last" is
    the one after), the number of the slab of channels, and the number of the part that the unit adds its sums to.
    """

    table: NDArray[np.int64]
    num_slabs: int
    num_parts: int

    @classmethod
    def cut(cls, num_sequences: int, length: int, num_channels: int, reset: NDArray[np.bool_] | None = None) -> "Units":
        """Cut by sequences; where these are few also at resets, and where these are few too by channels."""
        if reset is not None and num_sequences < _FEW:
            spans = [(n, n + 1, *span) for n in range(num_sequences) for span in _between_resets(reset[n])]
        else:
            num_runs = min(num_sequences, _MAX_RUNS)
            bounds = [num_sequences * i // num_runs for i in range(num_runs + 1)] if num_runs else [0]
            spans = [(first, last, 0, length) for first, last in pairwise(bounds)]
        # Slabs cost: each adds to dB and dC on its own.
        size = max(num_channels, 1) if len(spans) >= _FEW else _SLAB
        slabs = [(first, min(first + size, num_channels)) for first in range(0, num_channels, size)]
        rows = [
            (*span[:2], *slab, *span[2:], number, part)
            for part, span in enumerate(spans)
            for number, slab in enumerate(slabs)
        ]
        return cls(np.array(rows, np.int64).reshape(-1, 8), len(slabs), len(spans))


def _between_resets(reset: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Spans of tokens that begin at the sequence's start or at a reset, of `_MIN_TOKENS` or more where possible."""
    length = len(reset)
    step = max(_MIN_TOKENS, length // _MAX_RUNS)
    starts = [0]
    for t in np.flatnonzero(reset):
        if t - starts[-1] >= step:
            starts.append(int(t))
    return list(zip(starts, [*starts[1:], length], strict=True))
