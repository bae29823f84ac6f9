"""The inside of a Mamba block as one operator for the CPU: convolution, projections, scan and gate.

The same as its parts one by one, but gradients are written where they belong, instead of being made apart, joined and
added: half of the memory traffic around the scan.
"""

from typing import Any

import torch
from torch import Tensor

from nstorm.scan.backends import BACKENDS


@torch.library.custom_op("nstorm::mamba_inner", mutates_args=())
def mamba_inner(
    xz: Tensor, conv_weight: Tensor, conv_bias: Tensor | None, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor,
    A: Tensor, D: Tensor, token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return y (n, l, d) and, for the backward pass, the convolved input, x_proj of it, the steps and the states.

    `xz` is (n, l, 2 d), the input before the convolution and the gate; `conv_weight` (d, taps); `x_proj` (r + 2 s, d);
    `dt_proj` (d, r).
    """
    from nstorm.scan import numba_backend, numba_conv

    d, rank = dt_proj.shape
    x, z = xz.split(d, dim=-1)
    u, _ = numba_conv.forward(x.float(), conv_weight, conv_bias, True, None, token_mask, reset)
    with _exactly():
        projected = u @ x_proj.float().t()
        steps = projected[..., :rank] @ dt_proj.float().t()
    B, C = _matrices(projected, rank)
    y, _, states = numba_backend.forward(u, steps, A, B, C, D, z, dt_bias, True, None, token_mask, reset)
    # flat, as in `nstorm.scan.operator`
    return y.to(xz.dtype), u, projected, steps, states.flatten()


@mamba_inner.register_fake
def _(
    xz: Tensor, conv_weight: Tensor, conv_bias: Tensor | None, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor,
    A: Tensor, D: Tensor, token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    n, length, _ = xz.shape
    u = xz.new_empty(n, length, D.shape[0], dtype=torch.float32)
    (states,) = BACKENDS["numba"].kept(u, A, u)
    return (
        xz.new_empty(u.shape), u, u.new_empty(n, length, x_proj.shape[0]), u.new_empty(u.shape),
        states,
    )  # fmt: skip


@torch.library.custom_op("nstorm::mamba_inner_backward", mutates_args=())
def mamba_inner_backward(
    dy: Tensor, u: Tensor, projected: Tensor, steps: Tensor, states: Tensor,
    xz: Tensor, conv_weight: Tensor, conv_bias: Tensor | None, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor,
    A: Tensor, D: Tensor, token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of xz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A and D, in float32."""
    from nstorm.scan import numba_backend, numba_conv

    d, rank = dt_proj.shape
    x, z = xz.split(d, dim=-1)
    dxz, dprojected = u.new_empty(xz.shape), u.new_empty(projected.shape)
    dx, dz = dxz.split(d, dim=-1)
    B, C = _matrices(projected, rank)
    dB, dC = _matrices(dprojected, rank)
    du, dsteps, dA, _, _, dD, _, dbias, _ = numba_backend.backward(
        dy, None, states, u, steps, A, B, C, D, z, dt_bias, True, token_mask, reset, dz=dz, dB=dB, dC=dC
    )
    flat = dprojected.view(-1, dprojected.shape[-1])
    with _exactly():
        dprojected[..., :rank] = dsteps @ dt_proj.float()
        ddt_proj = dsteps.view(-1, d).t() @ projected.view(flat.shape)[:, :rank]
        dx_proj = flat.t() @ u.view(-1, d)
        du.view(-1, d).addmm_(flat, x_proj.float())
    _, dconv, dconv_bias, _ = numba_conv.backward(
        du, None, x, conv_weight, conv_bias, True, None, token_mask, reset, dx=dx
    )
    return dxz, dconv, dconv_bias, dx_proj, ddt_proj, dbias, dA, dD


@mamba_inner_backward.register_fake
def _(
    dy: Tensor, u: Tensor, projected: Tensor, steps: Tensor, states: Tensor,
    xz: Tensor, conv_weight: Tensor, conv_bias: Tensor | None, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor,
    A: Tensor, D: Tensor, token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    inputs = xz, conv_weight, conv_weight[:, 0], x_proj, dt_proj, dt_bias, A, D
    grads = [xz.new_empty(x.shape, dtype=torch.float32) for x in inputs]
    return grads[0], grads[1], grads[2], grads[3], grads[4], grads[5], grads[6], grads[7]


def _exactly() -> torch.autocast:
    """Within, autocast leaves products in float32, as the operator says that they are."""
    return torch.autocast("cpu", enabled=False)


def _matrices(projected: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B and C, which follow the steps among the projections."""
    B, C = projected[..., rank:].chunk(2, dim=-1)
    return B, C


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # or zeros would be made for what is kept
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:], *inputs)


def _backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    grads = mamba_inner_backward(dy, *saved)
    given = saved[4:12]
    return *(None if x is None else grad.to(x.dtype) for x, grad in zip(given, grads, strict=True)), None, None


mamba_inner.register_autograd(_backward, setup_context=_setup_context)
