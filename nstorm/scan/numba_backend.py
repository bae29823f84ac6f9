"""The `numba` backend of the selective scan."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from nstorm.scan import numba_kernels as kernels
from nstorm.scan.elementary import LOG2_E
from nstorm.scan.numba_memory import (
    address,
    byte_flags,
    cut,
    empty,
    launch,
    padded,
    padded_state,
    plain,
    readable,
    rows,
    unpadded,
    zeros,
)
from nstorm.scan.runs import CHUNK
from nstorm.scan.simd import GROUP, LANES


class _Call:
    """What forward and backward hand to their kernels alike; holds the memory while these run."""

    def __init__(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        delta_bias: Tensor | None, delta_softplus: bool, token_mask: Tensor | None, reset: Tensor | None,
    ) -> None:  # fmt: skip
        n, length, d = u.shape
        num_states = A.shape[1]
        self.num_rows = -(-num_states // GROUP) * GROUP
        self.sizes = length, d, num_states, -(-d // LANES) * LANES
        self.units = cut((n, length, d), reset)
        self._rows = [readable(x) for x in (u, delta, z, B, C)]
        A = F.pad(plain(A).t() * LOG2_E, (0, 0, 0, self.num_rows - num_states))
        self._weights = [padded(x, d) for x in (A, D, delta_bias)]
        self._flags = byte_flags(token_mask, reset)
        self._softplus = delta_softplus

    def run(self, kernel: Any, *args: Any) -> None:
        """Run a kernel; `args` follow the arguments that both kernels share."""
        scratch = kernels.scratch_size(self.sizes[2], self.sizes[3])
        launch(
            kernel, self.units, scratch, self.sizes, *map(rows, self._rows), *map(address, self._weights),
            self._softplus, address(self._flags), *args,
        )  # fmt: skip


def forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
    token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return y (n, l, d), the last state (n, d, s), and the states backward starts from (n, chunks, s, padded d)."""
    call = _Call(u, delta, A, B, C, D, z, delta_bias, delta_softplus, token_mask, reset)
    (n, length, d), (*_, num_states, width) = u.shape, call.sizes
    y = empty(n, length, d)
    states = empty(n, -(-length // CHUNK), num_states, width)
    last_state = empty(n, num_states, width)
    first_state = None if initial_state is None else padded_state(initial_state, d)
    call.run(kernels.forward, address(first_state), rows(y), states.data_ptr(), last_state.data_ptr())
    return y.to(u.dtype), unpadded(last_state, d), states


def backward(
    dy: Tensor, dlast_state: Tensor | None, states: Tensor,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, token_mask: Tensor | None, reset: Tensor | None,
    *, dz: Tensor | None = None, dB: Tensor | None = None, dC: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the gradients of u, delta, A, B, C, D, z, delta_bias and initial_state, in float32.

    Those of z, B and C are written where the caller wants them, if given.
    """
    call = _Call(u, delta, A, B, C, D, z, delta_bias, delta_softplus, token_mask, reset)
    (n, length, d), (*_, num_states, width) = u.shape, call.sizes
    memory = readable(dy)
    du, ddelta = empty(n, length, d), empty(n, length, d)
    if z is not None and dz is None:
        dz = empty(n, length, d)
    parts, slabs = call.units.num_parts, call.units.num_slabs
    dA, dD, dbias = (zeros(parts, *shape, width) for shape in ((call.num_rows,), (), ()))
    slab_B, slab_C = (
        x[None] if x is not None and slabs == 1 else empty(slabs, n, length, num_states) for x in (dB, dC)
    )
    dlast = zeros(n, num_states, width) if dlast_state is None else padded_state(dlast_state, d)
    dfirst = empty(n, num_states, width)
    call.run(
        kernels.backward, rows(memory), states.data_ptr(), dlast.data_ptr(), rows(du), rows(ddelta), rows(dz),
        dA.data_ptr(), *((*rows(x[0]), x.stride(0)) if slabs else (0, 0, 0, 0) for x in (slab_B, slab_C)),
        dD.data_ptr(), dbias.data_ptr(), dfirst.data_ptr(),
    )  # fmt: skip
    return (
        du, ddelta, dA.sum(0)[:num_states, :d].t().contiguous(), _sum(slab_B, dB), _sum(slab_C, dC),
        dD.sum(0)[:d].clone(), zeros(1, 1, 1) if dz is None else dz, dbias.sum(0)[:d].clone(),
        unpadded(dfirst, d),
    )  # fmt: skip


def _sum(slabs: Tensor, target: Tensor | None) -> Tensor:
    """The sum over slabs, in the target if there is one (which may be the only slab)."""
    if len(slabs) == 1:
        return slabs[0]
    total = slabs.sum(0)
    return total if target is None else target.copy_(total)
