"""How the CPU kernels go through a sequence: in runs of tokens that end where a chunk ends or the state is reset."""

from numba import njit
from numba.extending import register_jitable

from nstorm.scan.simd import byte, inline

CHUNK = 32

SKIP = 1
RESET = 2

kernel = njit(nogil=True, cache=True, error_model="numpy")


@inline
def whole(number, multiple):
    """The next multiple of a number."""
    return (number + multiple - 1) // multiple * multiple


@inline
def has(flags, at, flag):
    """Whether a token has a flag; `flags` is an address of bytes, 0 for none."""
    return flags != 0 and byte(flags, at) & flag != 0


@register_jitable
def run_end(flags, at, start, last):
    """The token before which a run that begins at `start` ends."""
    end = min(last, start // CHUNK * CHUNK + CHUNK)
    if flags:
        for t in range(start + 1, end):
            if byte(flags, at + t) & RESET:
                return t
    return end


@register_jitable
def run_start(flags, at, first, end):
    """The token at which a run that ends before `end` starts."""
    start = max(first, (end - 1) // CHUNK * CHUNK)
    if flags:
        for t in range(end - 1, start, -1):
            if byte(flags, at + t) & RESET:
                return t
    return start
