"""The `numba` backend: hands torch's memory to the CPU kernels."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nstorm.scan import numba_kernels as kernels
from nstorm.scan.threads import run_units

# Shapes alone decide how work is cut, never the number of threads, so that sums are always added in one order.
_MAX_RUNS = 256
_FEW_SEQUENCES = 16
_SLAB = 32


@dataclass(frozen=True)
class _Units:
    """The units of work: for each, its range of sequences, its range of channels and the slab these are in."""

    sequences: NDArray[np.int64]
    channels: NDArray[np.int64]
    slab: NDArray[np.int64]
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
        units = [(run, slab, i) for run in runs for i, slab in enumerate(slabs)]
        return cls(
            np.array([run for run, _, _ in units], np.int64).reshape(-1, 2),
            np.array([slab for _, slab, _ in units], np.int64).reshape(-1, 2),
            np.array([i for _, _, i in units], np.int64),
            num_slabs,
        )


_NONE = np.zeros(1, np.float32), (0, 0)


def _rows(x: Tensor | None) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """A flat view of (n, l, d) memory that starts at its first value, and the strides of n and l."""
    if x is None:
        return _NONE
    x = x.detach().float()
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        x = x.contiguous()
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    flat = x.as_strided((span if x.numel() else 0,), (1,))
    return flat.numpy(), (x.stride(0), x.stride(1))


def _array(x: Tensor) -> NDArray[np.float32]:
    return x.detach().float().numpy()


def _vector(x: Tensor | None, num_channels: int) -> NDArray[np.float32]:
    return np.zeros(num_channels, np.float32) if x is None else _array(x.contiguous())


def _flags(token_mask: Tensor | None, reset: Tensor | None) -> tuple[NDArray[np.uint8], bool]:
    given = [m for m in (token_mask, reset) if m is not None]
    if not given:
        return np.zeros((1, 1), np.uint8), False
    flags = torch.zeros(given[0].shape, dtype=torch.uint8)
    if token_mask is not None:
        flags += ~token_mask * kernels.SKIP
    if reset is not None:
        flags += reset * kernels.RESET
    return flags.numpy(), True


def _shared(
    A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None, softplus: bool,
    token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[object, ...]:  # fmt: skip
    """The kernel arguments that forward and backward have in common, in the kernels' order."""
    num_channels = A.shape[0]
    A2 = (A.detach().float().t() * float(kernels.LOG2_E)).contiguous().numpy()
    return (
        A2, _array(B), _array(C), _vector(D, num_channels), _vector(bias, num_channels), softplus,
        *_flags(token_mask, reset),
    )  # fmt: skip


def forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
    token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return y (n, l, d), the last state (n, d, s), and the states backward starts from (n, chunks, s, d)."""
    (n, length, num_channels), num_states = u.shape, A.shape[1]
    y = u.new_empty(n, length, num_channels, dtype=torch.float32)
    states = y.new_empty(n, -(-length // kernels.CHUNK), num_states, num_channels)
    state = y.new_zeros(n, num_states, num_channels)
    if initial_state is not None:
        state.copy_(initial_state.transpose(1, 2))
    units = _Units.cut(n, num_channels)
    run_units(
        kernels.forward, len(units.slab), units.sequences, units.channels,
        *_rows(u), *_rows(delta), *_rows(z), z is not None,
        *_shared(A, B, C, D, delta_bias, delta_softplus, token_mask, reset),
        y.numpy(), states.numpy(), state.numpy(),
    )  # fmt: skip
    return y.to(u.dtype), state.transpose(1, 2).contiguous(), states


def backward(
    dy: Tensor, dlast_state: Tensor, states: Tensor,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the gradients of u, delta, A, B, C, D, z, delta_bias and initial_state, in float32."""
    (n, length, num_channels), num_states = u.shape, A.shape[1]
    units = _Units.cut(n, num_channels)
    num_units = len(units.slab)
    du = u.new_empty(n, length, num_channels, dtype=torch.float32)
    ddelta, dz = torch.empty_like(du), du.new_empty(du.shape if z is not None else (1, 1, 1))
    dA, dD = du.new_zeros(num_units, num_states, num_channels), du.new_zeros(num_units, num_channels)
    dB, dbias = du.new_zeros(units.num_slabs, n, length, num_states), torch.zeros_like(dD)
    dC = torch.zeros_like(dB)
    dstate = dlast_state.float().transpose(1, 2).contiguous().clone()
    run_units(
        kernels.backward, num_units, units.sequences, units.channels, units.slab,
        *_rows(dy), *_rows(u), *_rows(delta), *_rows(z), z is not None,
        *_shared(A, B, C, D, delta_bias, delta_softplus, token_mask, reset), states.numpy(),
        *(t.numpy() for t in (du, ddelta, dz, dA, dB, dC, dD, dbias, dstate)),
    )  # fmt: skip
    return (
        du, ddelta, dA.sum(0).t().contiguous(), dB.sum(0), dC.sum(0), dD.sum(0), dz, dbias.sum(0),
        dstate.transpose(1, 2).contiguous(),
    )  # fmt: skip
