"""The selective scan written as the recurrence it is: the specification of every faster backend."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def selective_scan_reference(
    u: Float[Tensor, "n d l"],
    delta: Float[Tensor, "n d l"],
    A: Float[Tensor, "d s"],
    B: Float[Tensor, "n g s l"],
    C: Float[Tensor, "n k s l"],
    D: Float[Tensor, " d"] | None,
    z: Float[Tensor, "n d l"] | None,
    delta_bias: Float[Tensor, " d"] | None,
    delta_softplus: bool,
    initial_state: Float[Tensor, "n d s"] | None,
    token_mask: Bool[Tensor, "n l"] | None,
    reset: Bool[Tensor, "n l"] | None,
) -> tuple[Float[Tensor, "n d l"], Float[Tensor, "n d s"]]:
    """Compute the Mamba-1 recurrence one token at a time, differentiable by autograd.

    The arguments are those of `nstorm.scan.selective_scan`, with B and C already expanded to one group axis.
    The state is float32, or float64 where `u` is.

    Returns:
        The output in the type of `u`, and the state after the last token.
    """
    num_channels, num_states = A.shape
    state_type = torch.float64 if u.dtype == torch.float64 else torch.float32
    x, step = u.to(state_type), delta.to(state_type)
    if delta_bias is not None:
        step = step + delta_bias.to(state_type)[:, None]
    if delta_softplus:
        step = F.softplus(step)
    B, C = (m.to(state_type).repeat_interleave(num_channels // m.shape[1], dim=1) for m in (B, C))  # (n, d, s, l)
    A = A.to(state_type)

    state = x.new_zeros(x.shape[0], num_channels, num_states)
    if initial_state is not None:
        state = initial_state.to(state_type)
    outputs = []
    for t in range(x.shape[-1]):
        if reset is not None:
            state = torch.where(reset[:, t, None, None], 0.0, state)
        decay = torch.exp(step[:, :, t, None] * A)
        updated = decay * state + (step[:, :, t] * x[:, :, t])[..., None] * B[..., t]
        output = (updated * C[..., t]).sum(-1)
        if D is not None:
            output = output + D.to(state_type) * x[:, :, t]
        if token_mask is not None:
            updated = torch.where(token_mask[:, t, None, None], updated, state)
            output = torch.where(token_mask[:, t, None], output, 0.0)
        state = updated
        outputs.append(output)
    y = torch.stack(outputs, dim=-1) if outputs else x * 0.0
    if z is not None:
        y = y * F.silu(z.to(state_type))
    return y.to(u.dtype), state
