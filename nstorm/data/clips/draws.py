"""Randomness that belongs to numbers, such as a seed, an epoch and an index, and to nothing that came before.

Whoever knows the numbers draws the same: every worker of a loader, every process of a training, at any time. No
generator is drawn from, whose stream might change with a library's version.
"""

from hashlib import sha256

import numpy as np


def drawn(*numbers: int | str) -> tuple[float, int]:
    """Draw a number from 0 to below 1 and one of 32 bits."""
    digest = sha256("/".join(map(str, numbers)).encode()).digest()
    # 53 bits are what float64 holds
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53, int.from_bytes(digest[8:12], "big")


def random_state(*numbers: int | str) -> np.random.RandomState:
    """Make a generator whose stream is the same in every version of numpy."""
    return np.random.RandomState(drawn(*numbers)[1])
