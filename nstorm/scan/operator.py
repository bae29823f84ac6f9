"""The selective scan as one PyTorch operator, so that autograd, `torch.compile` and `torch.export` see one node.

The operator works on `(n, l, d)` memory, the layout in which a mixer produces its tokens.
"""

from typing import Any

import torch
from torch import Tensor

from nstorm.scan.backends import BACKENDS


@torch.library.custom_op("nstorm::selective_scan", mutates_args=())
def scan_operator(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
    token_mask: Tensor | None, reset: Tensor | None, backend: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return y (n, l, d), the last state (n, d, s), and the states that the backward pass starts from."""
    return (
        BACKENDS[backend]
        .kernels()
        .forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, token_mask, reset)
    )


@scan_operator.register_fake
def _(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
    token_mask: Tensor | None, reset: Tensor | None, backend: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    n, length, num_channels = u.shape
    chunk, lanes = BACKENDS[backend].chunk, BACKENDS[backend].lanes
    num_chunks, num_vectors = (length + chunk - 1) // chunk, (num_channels + lanes - 1) // lanes
    state = u.new_empty(n, num_channels, A.shape[1], dtype=torch.float32)
    return (
        u.new_empty(n, length, num_channels),
        state,
        state.new_empty(n, num_chunks, A.shape[1], num_vectors * lanes),
    )


@torch.library.custom_op("nstorm::selective_scan_backward", mutates_args=())
def backward_operator(
    dy: Tensor, dlast_state: Tensor, states: Tensor,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, token_mask: Tensor | None, reset: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of u, delta, A, B, C, D, z, delta_bias and the initial state, in float32."""
    return (
        BACKENDS[backend]
        .kernels()
        .backward(dy, dlast_state, states, u, delta, A, B, C, D, z, delta_bias, delta_softplus, token_mask, reset)
    )


@backward_operator.register_fake
def _(
    dy: Tensor, dlast_state: Tensor, states: Tensor,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, token_mask: Tensor | None, reset: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    def new(*shape: Any) -> Tensor:
        return u.new_empty(shape, dtype=torch.float32)

    num_channels = u.shape[-1]
    return (
        new(*u.shape), new(*u.shape), new(*A.shape), new(*B.shape), new(*C.shape), new(num_channels),
        new(*u.shape) if z is not None else new(1, 1, 1), new(num_channels), new(*dlast_state.shape),
    )  # fmt: skip


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    u, delta, A, B, C, D, z, delta_bias, ctx.delta_softplus, initial_state, token_mask, reset, ctx.backend = inputs
    ctx.state_dtype = None if initial_state is None else initial_state.dtype
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, token_mask, reset, output[2])


def _backward(ctx: Any, dy: Tensor, dlast_state: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    u, delta, A, B, C, D, z, delta_bias, token_mask, reset, states = ctx.saved_tensors
    grads = backward_operator(
        dy, dlast_state, states, u, delta, A, B, C, D, z, delta_bias, ctx.delta_softplus, token_mask, reset,
        ctx.backend,
    )  # fmt: skip
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    du, ddelta, dA, dB, dC, dD, dz, dbias = (
        None if x is None else grad.to(x.dtype) for x, grad in zip(inputs, grads[:8], strict=True)
    )
    dstate = None if ctx.state_dtype is None else grads[8].to(ctx.state_dtype)
    return du, ddelta, dA, dB, dC, dD, dz, dbias, None, dstate, None, None, None


scan_operator.register_autograd(_backward, setup_context=_setup_context)
