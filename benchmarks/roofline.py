"""How fast a selective scan could be on this machine: the larger of the times of its arithmetic and of its memory.

Arithmetic. A state update is one state of one channel at one token. Floating-point operations of the numba kernels,
where a fused multiply-add counts 2 and moving, comparing and selecting count nothing:

| | forward | backward |
|---|---|---|
| step times A | 1 | 1 |
| exp2: split off the fraction 2, polynomial of degree 6 12, scale 1 | 15 | 15 |
| drive, state, output | 1 + 2 + 2 | 1 + 2 + 2 |
| gradient of the state, and that one a token earlier | | 2 + 1 |
| gradients of B and C: product and sum over channels | | 2 + 2 |
| gradients of drive, exponent, A and step | | 2 + 1 + 2 + 2 |
| sum | 21 | 35 |

A channel of a token takes 69 more forward and 108 backward, independent of the number of states: softplus 41, sigmoid
23, skip, gate and their gradients. The peak is that of fused multiply-adds on registers. What is not a fused
multiply-add does half the work in the same time, so code of nothing but these operations would reach 78 % of it.

Memory. Every tensor is read or written once where it must be: forward reads u, delta, z, B and C and writes y and
every 32nd state; backward reads these, the gradient of y and the states, and writes five gradients. The peak is that of
adding two vectors too large for the caches.
"""

import math
from typing import NamedTuple, no_type_check

import numpy as np
import torch
from numba import njit

from benchmarks.measure import fastest_seconds
from nstorm.scan.runs import CHUNK
from nstorm.scan.simd import GROUP, LANES, multiply_add, splat, spread, store_states
from nstorm.scan.threads import run_pieces

FORWARD, BACKWARD = 21, 35
FORWARD_PER_CHANNEL, BACKWARD_PER_CHANNEL = 69, 108

_CHAINS = 4
_ROUNDS = 200_000
_LESS, _MORE = np.float32(0.5), np.float32(1.0)


@njit(nogil=True)
@no_type_check
def _multiply_adds(piece, first, last, out):
    """Four independent chains, each of `GROUP` vectors: enough to hide the latency of the instruction."""
    a = b = c = d = spread(splat(_MORE))
    factor, term = spread(splat(_LESS)), spread(splat(_MORE))
    for _ in range(_ROUNDS * (last - first)):
        a, b = multiply_add(a, factor, term), multiply_add(b, factor, term)
        c, d = multiply_add(c, factor, term), multiply_add(d, factor, term)
    store_states(out, piece * GROUP * LANES, LANES, a + b + c + d)


class Roofline(NamedTuple):
    """What the machine does in a second with the threads in use.

    Attributes:
        flops: float32 operations, a fused multiply-add counting 2.
        bytes: read and written.
    """

    flops: float
    bytes: float

    @classmethod
    def measure(cls) -> "Roofline":
        """Measure both, as the fastest of several tries."""
        threads = torch.get_num_threads()
        out = torch.empty(threads, GROUP * LANES)
        work = 2 * _CHAINS * GROUP * LANES * _ROUNDS * threads
        multiply_adds = fastest_seconds(lambda: run_pieces(_multiply_adds, threads, threads, out.data_ptr()))
        # ones: pages of zeros would share one page of memory
        a, b, c = torch.ones(3, 2**24)
        return cls(work / multiply_adds, 3 * 4 * len(a) / fastest_seconds(lambda: torch.add(a, b, out=c)))

    def or_higher(self, other: "Roofline") -> "Roofline":
        """The higher of two measurements, for each."""
        return Roofline(max(self.flops, other.flops), max(self.bytes, other.bytes))

    def seconds(self, n: int, d: int, length: int, s: int, *, backward: bool) -> float:
        """The shortest time of a forward pass, or with its backward pass."""
        channels, matrices = n * length * d, n * length * s
        flops = channels * (FORWARD * s + FORWARD_PER_CHANNEL)
        # u, delta, z, y; every CHUNK-th state; B, C
        floats = 4 * channels + channels * s / CHUNK + 2 * matrices
        if backward:
            flops += channels * (BACKWARD * s + BACKWARD_PER_CHANNEL)
            # u, delta, z, dy, du, ddelta, dz; the states; B, C, dB, dC
            floats += 7 * channels + channels * s / CHUNK + 4 * matrices
        return max(flops / self.flops, 4 * math.ceil(floats) / self.bytes)

    def __str__(self) -> str:
        return f"{self.flops / 1e9:.0f} GFLOP/s of float32 fused multiply-adds, {self.bytes / 1e9:.0f} GB/s of memory"
