"""The causal depthwise convolution that stands before a selective scan."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from nstorm.scan.backends import ScanCall, choose_backend
from nstorm.scan.checks import check_flags, check_shape


def causal_conv1d(
    x: Float[Tensor, "n d l"],
    weight: Float[Tensor, "d taps"],
    bias: Float[Tensor, " d"] | None = None,
    silu: bool = False,
    *,
    initial_state: Float[Tensor, "n d past"] | None = None,
    token_mask: Bool[Tensor, "n l"] | None = None,
    reset: Bool[Tensor, "n l"] | None = None,
    return_last_state: bool = False,
    backend: str = "auto",
) -> Float[Tensor, "n d l"] | tuple[Float[Tensor, "n d l"], Float[Tensor, "n d past"]]:
    """Convolve every channel along a sequence with its own taps, the last of which meets the present token.

    Skipped tokens are absent: taps reach over them to the token before, and their output is 0. The state is the last
    taps - 1 inputs, with zeros where there were fewer.

    Args:
        x: input `(n, d, l)`; memory in which channels are contiguous is read without a copy on a CPU.
        weight: `(d, taps)`.
        bias: `(d,)`.
        silu: pass the result through SiLU.
        initial_state: `(n, d, taps - 1)`, the inputs before the first token; zeros if None. Differentiable.
        token_mask: `(n, l)`, False for tokens to skip.
        reset: `(n, l)`, True where the tokens before are forgotten.
        return_last_state: also return the state after the last token. Differentiable.
        backend: as in `selective_scan`; the numba kernels take float32 and shorter on a CPU, PyTorch all else.

    Returns:
        y `(n, d, l)`; with `return_last_state` the pair (y, last state).

    Raises:
        ValueError: if shapes do not fit, flags are not boolean, or `backend` cannot take the call.

    Example:
        >>> import torch
        >>> from nstorm.scan import causal_conv1d
        >>> causal_conv1d(torch.randn(2, 8, 63), torch.randn(8, 4), silu=True).shape
        torch.Size([2, 8, 63])
    """
    (n, d, length), taps = x.shape, weight.shape[-1]
    check_shape("weight", weight, (d, taps))
    check_shape("bias", bias, (d,))
    check_shape("initial_state", initial_state, (n, d, taps - 1))
    check_flags(token_mask, reset, (n, length))
    rows = x.transpose(1, 2)
    if choose_backend(backend, ScanCall(x.device.type, x.dtype, (n, d, length, 1))) == "numba":
        y, last = conv_operator(rows, weight, bias, silu, initial_state, token_mask, reset)
    else:
        y, last = causal_conv1d_reference(rows, weight, bias, silu, initial_state, token_mask, reset)
    return (y.transpose(1, 2), last) if return_last_state else y.transpose(1, 2)


def causal_conv1d_reference(
    x: Float[Tensor, "n l d"], weight: Float[Tensor, "d taps"], bias: Float[Tensor, " d"] | None, silu: bool,
    initial_state: Float[Tensor, "n d past"] | None,
    token_mask: Bool[Tensor, "n l"] | None, reset: Bool[Tensor, "n l"] | None,
) -> tuple[Float[Tensor, "n l d"], Float[Tensor, "n d past"]]:  # fmt: skip
    """Compute the convolution with PyTorch's operators, differentiable by autograd, on any device and in any type."""
    n, length, d = x.shape
    past = weight.shape[1] - 1
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    before = x.new_zeros(n, past, d) if initial_state is None else initial_state.transpose(1, 2).to(x.dtype)
    tokens = torch.cat([before, x], dim=1)
    if token_mask is None and reset is None and length:
        y = F.conv1d(tokens.transpose(1, 2), weight[:, None], bias, groups=d).transpose(1, 2)
        return (F.silu(y) if silu else y), tokens[:, length:].transpose(1, 2)

    kept = x.new_ones(n, length, dtype=torch.bool) if token_mask is None else token_mask
    always = kept.new_ones(n, past)
    kept = torch.cat([always, kept], dim=1)
    # the region of a token counts the resets up to it; tokens before the sequence are in region 0
    region = x.new_zeros(n, length + past, dtype=torch.long)
    if reset is not None:
        region[:, past:] = reset.cumsum(1)
    # the place of every kept token, in order; a token's rank is its place among them
    order = torch.argsort(~kept, dim=1, stable=True)
    rank = kept.cumsum(1) - 1
    y = x.new_zeros(n, length, d) if bias is None else bias.expand(n, length, d)
    for tap in range(past + 1):
        place = order.gather(1, (rank[:, past:] - (past - tap)).clamp(min=0))
        seen = (region.gather(1, place) == region[:, past:])[..., None]
        taken = tokens.gather(1, place[..., None].expand(-1, -1, d))
        y = y + torch.where(seen, taken, 0.0) * weight[:, tap]
    y = torch.where(kept[:, past:, None], F.silu(y) if silu else y, 0.0)

    last = (rank[:, -1:] - torch.arange(past - 1, -1, -1, device=x.device)).clamp(min=0)
    place = order.gather(1, last)
    seen = (region.gather(1, place) == region[:, -1:])[..., None]
    state = torch.where(seen, tokens.gather(1, place[..., None].expand(-1, -1, d)), 0.0)
    return y, state.transpose(1, 2)


@torch.library.custom_op("nstorm::causal_conv1d", mutates_args=())
def conv_operator(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, initial_state: Tensor | None,
    token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return y (n, l, d) and the last inputs (n, d, taps - 1)."""
    from nstorm.scan import numba_conv

    return numba_conv.forward(x, weight, bias, silu, initial_state, token_mask, reset)


@conv_operator.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, initial_state: Tensor | None,
    token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return x.new_empty(x.shape), x.new_empty(x.shape[0], x.shape[2], weight.shape[1] - 1)


@torch.library.custom_op("nstorm::causal_conv1d_backward", mutates_args=())
def conv_backward_operator(
    dy: Tensor, dlast: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool,
    initial_state: Tensor | None, token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of x, weight, bias and the initial state, in float32."""
    from nstorm.scan import numba_conv

    return numba_conv.backward(dy, dlast, x, weight, bias, silu, initial_state, token_mask, reset)


@conv_backward_operator.register_fake
def _(
    dy: Tensor, dlast: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool,
    initial_state: Tensor | None, token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    shapes = x.shape, weight.shape, weight.shape[:1], dlast.shape
    dx, dweight, dbias, dfirst = (x.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return dx, dweight, dbias, dfirst


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, ctx.silu, initial_state, token_mask, reset = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, initial_state, token_mask, reset)


def _backward(ctx: Any, dy: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, bias, initial_state, token_mask, reset = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(x)
    if dlast is None:
        dlast = x.new_zeros(x.shape[0], x.shape[2], weight.shape[1] - 1)
    grads = conv_backward_operator(dy, dlast, x, weight, bias, ctx.silu, initial_state, token_mask, reset)
    inputs = x, weight, bias, initial_state
    dx, dweight, dbias, dfirst = (
        None if given is None else grad.to(given.dtype) for given, grad in zip(inputs, grads, strict=True)
    )
    return dx, dweight, dbias, None, dfirst, None, None


conv_operator.register_autograd(_backward, setup_context=_setup_context)
