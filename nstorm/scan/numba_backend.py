"""The `numba` backend: hands torch's memory to the CPU kernels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nstorm.scan import numba_kernels as kernels
from nstorm.scan.simd import LANES, LOG2_E
from nstorm.scan.threads import num_pieces, run_pieces

# Shapes alone decide how work is cut, never the number of threads, so that sums are always added in one order.
_MAX_RUNS = 256
_FEW_SEQUENCES = 16
_SLAB = 32


@dataclass(frozen=True)
class _Units:
    """The units of work: the range of sequences and the range of channels of each; slabs follow each other fastest."""

    sequences: NDArray[np.int64]
    channels: NDArray[np.int64]
    num_slabs: int

    @classmethod
    def cut(cls, num_sequences: int, num_channels: int) -> "_Units":
        num_runs = min(num_sequences, _MAX_RUNS)
        # With many sequences these alone keep all threads busy, and dB, dC need no second sum over slabs.
        num_slabs = 1 if num_sequences >= _FEW_SEQUENCES else -(-num_channels // _SLAB)
        runs = [(num_sequences * i // num_runs, num_sequences * (i + 1) // num_runs) for i in range(num_runs)]
        slabs = [(i * _SLAB, min((i + 1) * _SLAB, num_channels)) for i in range(num_slabs)]
        if num_slabs == 1:
            slabs = [(0, num_channels)]
        units = [(run, slab) for run in runs for slab in slabs]
        return cls(
            np.array([run for run, _ in units], np.int64).reshape(-1, 2),
            np.array([slab for _, slab in units], np.int64).reshape(-1, 2),
            num_slabs,
        )


Rows = tuple[int, int, int]


def _plain(x: Tensor) -> Tensor:
    """In float32, without history, and without what a subclass such as MONAI's MetaTensor does to operations."""
    return x.detach().as_subclass(Tensor).float()


def _rows(x: Tensor | None) -> tuple[Tensor | None, Rows]:
    """The float32 memory of an (n, l, c) tensor whose last axis is contiguous, and its address and strides."""
    if x is None:
        return None, (0, 0, 0)
    x = _plain(x)
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        x = x.contiguous()
    return x, (x.data_ptr(), x.stride(0), x.stride(1))


def _padded(x: Tensor | None, num_channels: int) -> Tensor:
    """A copy whose last axis, channels, is float32 with zeros up to a whole number of vectors."""
    if x is None:
        x = torch.zeros(num_channels)
    return F.pad(_plain(x), (0, -num_channels % LANES)).clone(memory_format=torch.contiguous_format)


def _unpadded(state: Tensor, num_channels: int) -> Tensor:
    """(n, s, padded d) as (n, d, s)."""
    return state[..., :num_channels].transpose(1, 2).contiguous()


def _flags(token_mask: Tensor | None, reset: Tensor | None) -> Tensor | None:
    given = [m for m in (token_mask, reset) if m is not None]
    if not given:
        return None
    flags = torch.zeros(given[0].shape, dtype=torch.uint8)
    if token_mask is not None:
        flags += ~token_mask.as_subclass(Tensor) * kernels.SKIP
    if reset is not None:
        flags += reset.as_subclass(Tensor) * kernels.RESET
    return flags


class _Call:
    """What forward and backward hand to their kernels alike; holds the memory while these run."""

    def __init__(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        delta_bias: Tensor | None, delta_softplus: bool, token_mask: Tensor | None, reset: Tensor | None,
    ) -> None:  # fmt: skip
        self.num_sequences, self.length, self.num_channels = u.shape
        self.num_states = A.shape[1]
        self.padded = -(-self.num_channels // LANES) * LANES
        self.units = _Units.cut(self.num_sequences, self.num_channels)
        self._rows = [_rows(x) for x in (u, delta, z, B, C)]
        self._weights = [_padded(x, self.num_channels) for x in (A.t() * LOG2_E, D, delta_bias)]
        self._flags = _flags(token_mask, reset)
        self._softplus = delta_softplus

    def run(self, kernel: Callable[..., None], *args: Any, first: tuple[Any, ...] = ()) -> None:
        """Run a kernel over all units; `first` stands before and `args` after the arguments both kernels share."""
        pieces = num_pieces(len(self.units.sequences))
        scratch = torch.empty(pieces, kernels.scratch_size(self.num_states))
        run_pieces(
            kernel, pieces, len(self.units.sequences), self.units.sequences, self.units.channels, scratch.data_ptr(),
            (self.length, self.num_channels, self.num_states, self.padded), *first,
            *(rows for _, rows in self._rows), *(x.data_ptr() for x in self._weights), self._softplus,
            0 if self._flags is None else self._flags.data_ptr(), *args,
        )  # fmt: skip


def forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
    token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return y (n, l, d), the last state (n, d, s), and the states backward starts from (n, chunks, s, padded d)."""
    call = _Call(u, delta, A, B, C, D, z, delta_bias, delta_softplus, token_mask, reset)
    n = call.num_sequences
    y = torch.empty(n, call.length, call.num_channels)
    states = torch.empty(n, -(-call.length // kernels.CHUNK), call.num_states, call.padded)
    if initial_state is None:
        state = torch.zeros(n, call.num_states, call.padded)
    else:
        state = _padded(initial_state.transpose(1, 2), call.num_channels)
    call.run(kernels.forward, y.data_ptr(), states.data_ptr(), state.data_ptr())
    return y.to(u.dtype), _unpadded(state, call.num_channels), states


def backward(
    dy: Tensor, dlast_state: Tensor, states: Tensor,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the gradients of u, delta, A, B, C, D, z, delta_bias and initial_state, in float32."""
    call = _Call(u, delta, A, B, C, D, z, delta_bias, delta_softplus, token_mask, reset)
    n, num_runs = call.num_sequences, len(call.units.sequences) // call.units.num_slabs
    dy_memory, dy_rows = _rows(dy)
    du = torch.empty(n, call.length, call.num_channels)
    # the kernel leaves dz alone where a token is skipped
    ddelta, dz = torch.empty_like(du), torch.zeros(du.shape if z is not None else (1, 1, 1))
    dA, dD = torch.zeros(num_runs, call.num_states, call.padded), torch.zeros(num_runs, call.padded)
    dB, dbias = torch.empty(call.units.num_slabs, n, call.length, call.num_states), torch.zeros_like(dD)
    dC = torch.empty_like(dB)
    dstate = _padded(dlast_state.transpose(1, 2), call.num_channels)
    call.run(
        kernels.backward, states.data_ptr(), du.data_ptr(), ddelta.data_ptr(), dz.data_ptr(), dA.data_ptr(),
        dB.numpy(), dC.numpy(), dD.data_ptr(), dbias.data_ptr(), dstate.data_ptr(),
        first=(call.units.num_slabs, dy_rows),
    )  # fmt: skip
    del dy_memory
    d = call.num_channels
    return (
        du, ddelta, dA.sum(0)[:, :d].t().contiguous(), dB.sum(0), dC.sum(0), dD.sum(0)[:d].clone(),
        dz, dbias.sum(0)[:d].clone(), _unpadded(dstate, d),
    )  # fmt: skip
