"""The `numba` backend of the causal convolution."""

from torch import Tensor

from nstorm.scan import conv_kernels as kernels
from nstorm.scan.numba_memory import (
    address,
    byte_flags,
    cut,
    empty,
    launch,
    padded,
    padded_state,
    readable,
    rows,
    unpadded,
    zeros,
)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, initial_state: Tensor | None,
    token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return y (n, l, d) and the last inputs (n, d, taps - 1)."""
    (n, length, d), taps = x.shape, weight.shape[1]
    weights = [padded(weight.t(), d), padded(bias, d)]
    first = None if initial_state is None else padded_state(initial_state, d)
    y, last = empty(n, length, d), empty(n, taps - 1, weights[0].shape[1])
    memory, flags = readable(x), byte_flags(token_mask, reset)
    launch(
        kernels.forward, cut((n, length, d), reset), kernels.scratch_size(taps), (length, d, taps, last.shape[2]),
        rows(memory), *map(address, weights), silu, address(flags), address(first), rows(y), last.data_ptr(),
    )  # fmt: skip
    return y.to(x.dtype), unpadded(last, d).to(x.dtype)


def backward(
    dy: Tensor, dlast: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool,
    initial_state: Tensor | None, token_mask: Tensor | None, reset: Tensor | None, *, dx: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of x, weight, bias and the initial state, in float32; that of x in `dx`, if given."""
    (n, length, d), taps = x.shape, weight.shape[1]
    memory, grads = readable(x), readable(dy)
    weights = [padded(weight.t(), d), padded(bias, d)]
    first = None if initial_state is None else padded_state(initial_state, d)
    width = weights[0].shape[1]
    dx = empty(n, length, d) if dx is None else dx
    dlast = zeros(n, taps - 1, width) if dlast is None else padded_state(dlast, d)
    units, flags = cut((n, length, d), reset), byte_flags(token_mask, reset)
    dweight, dbias = zeros(units.num_parts, taps, width), zeros(units.num_parts, width)
    dfirst = zeros(n, taps - 1, width)
    launch(
        kernels.backward, units, kernels.scratch_size(taps), (length, d, taps, width), rows(memory),
        *map(address, weights), silu, address(flags), address(first), rows(grads), dlast.data_ptr(), rows(dx),
        dweight.data_ptr(), dbias.data_ptr(), dfirst.data_ptr(),
    )  # fmt: skip
    return dx, dweight.sum(0)[:, :d].t().contiguous(), dbias.sum(0)[:d].clone(), unpadded(dfirst, d)
