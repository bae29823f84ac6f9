"""The selective scan as one PyTorch operator, so that autograd, `torch.compile` and `torch.export` see one node.

The operator works on `(n, l, d)` memory, the layout in which a mixer produces its tokens. B and C are `(n, l, s)`,
`(n, l, g, s)` in groups of channels, or `(d, s)`.
"""

from typing import Any

import torch
from torch import Tensor

from nstorm.scan.backends import BACKENDS
from nstorm.scan.torch_backend import state_dtype


@torch.library.custom_op("nstorm::selective_scan", mutates_args=())
def scan_operator(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
    token_mask: Tensor | None, reset: Tensor | None, backend: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    """Return y (n, l, d), the last state (n, d, s), and what the backend keeps for its backward pass, flat.

    Flat, because in more dimensions `torch.export` would make it a condition that there is more than one chunk.
    """
    forward = BACKENDS[backend].kernels().forward
    y, last_state, *kept = forward(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, token_mask, reset
    )  # fmt: skip
    return y, last_state, [x.flatten() for x in kept]


@scan_operator.register_fake
def _(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
    token_mask: Tensor | None, reset: Tensor | None, backend: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    n, _, num_channels = u.shape
    last_state = u.new_empty(n, num_channels, A.shape[1], dtype=state_dtype(u))
    return u.new_empty(u.shape), last_state, BACKENDS[backend].kept(u, A, z)


@torch.library.custom_op("nstorm::selective_scan_backward", mutates_args=())
def backward_operator(
    dy: Tensor, dlast_state: Tensor, kept: list[Tensor],
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, token_mask: Tensor | None, reset: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of u, delta, A, B, C, D, z, delta_bias and the initial state, in the type of the state."""
    backward = BACKENDS[backend].kernels().backward
    return backward(dy, dlast_state, *kept, u, delta, A, B, C, D, z, delta_bias, delta_softplus, token_mask, reset)


@backward_operator.register_fake
def _(
    dy: Tensor, dlast_state: Tensor, kept: list[Tensor],
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, token_mask: Tensor | None, reset: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    def new(*shape: Any) -> Tensor:
        return u.new_empty(shape, dtype=state_dtype(u))

    num_channels = u.shape[-1]
    return (
        new(*u.shape), new(*u.shape), new(*A.shape), new(*B.shape), new(*C.shape), new(num_channels),
        new(*u.shape) if z is not None else new(1, 1, 1), new(num_channels), new(*dlast_state.shape),
    )  # fmt: skip


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, list[Tensor]]) -> None:
    u, delta, A, B, C, D, z, delta_bias, ctx.delta_softplus, initial_state, token_mask, reset, ctx.backend = inputs
    ctx.state_dtype = None if initial_state is None else initial_state.dtype
    kept = output[2]
    # or zeros would be made for what is kept
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*kept)
    ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, token_mask, reset, *kept)


def _backward(ctx: Any, dy: Tensor | None, dlast_state: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    u, delta, A, B, C, D, z, delta_bias, token_mask, reset, *kept = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(u)
    if dlast_state is None:
        dlast_state = u.new_zeros(u.shape[0], u.shape[2], A.shape[1], dtype=state_dtype(u))
    grads = backward_operator(
        dy, dlast_state, kept, u, delta, A, B, C, D, z, delta_bias, ctx.delta_softplus, token_mask, reset, ctx.backend
    )
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    du, ddelta, dA, dB, dC, dD, dz, dbias = (
        None if x is None else grad.to(x.dtype) for x, grad in zip(inputs, grads[:8], strict=True)
    )
    dstate = None if ctx.state_dtype is None else grads[8].to(ctx.state_dtype)
    return du, ddelta, dA, dB, dC, dD, dz, dbias, None, dstate, None, None, None


scan_operator.register_autograd(_backward, setup_context=_setup_context)
