"""The `mamba_ssm` backend: the CUDA kernel that the package mamba-ssm (2.x) builds, called directly.

Its functions take (n, d, l) memory and B and C in groups (n, g, s, l):

    fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus) -> out, x[, gated out]
    bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z)
        -> du, ddelta, dA, dB, dC, dD, ddelta_bias[, dz]

A, D and delta_bias are float32, everything along the sequence has one type. x holds the state after every 2048 tokens
in its odd entries, (n, d, chunks, 2 s).

Nobody has run this on a GPU yet: the tests put a module that keeps these rules in the kernel's place.
"""

import importlib
import re
from typing import Any

import torch
from torch import Tensor


def _load() -> tuple[Any, str | None]:
    """The kernel, or why it cannot be used."""
    try:
        kernel = importlib.import_module("selective_scan_cuda")
        # pybind11 lists the arguments as arg0, arg1, ...
        numbers = [len(re.findall(r"\barg\d+:", getattr(kernel, name).__doc__ or "")) for name in ("fwd", "bwd")]
    except Exception as error:  # a library built for another PyTorch fails in many ways
        return None, f"its kernel, the module selective_scan_cuda, does not load ({type(error).__name__}: {error})"
    if numbers not in ([9, 14], [0, 0]):
        return None, (
            f"selective_scan_cuda.fwd and bwd take {numbers[0]} and {numbers[1]} arguments, those of mamba-ssm 2.x "
            "9 and 14: they belong to another package"
        )
    return kernel, None


_kernel, MISSING = _load()


class _Call:
    """The arguments that both functions of the kernel begin with, as it wants them."""

    def __init__(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        delta_bias: Tensor | None,
    ) -> None:  # fmt: skip
        sequences = [x for x in (u, delta, B, C, z) if x is not None]
        self.dtype = u.dtype if all(x.dtype == u.dtype for x in sequences) else torch.float32
        self.arguments = (
            self.channels_second(u), self.channels_second(delta), _weight(A), self._matrix(B), self._matrix(C),
            _weight(D), None if z is None else self.channels_second(z), _weight(delta_bias),
        )  # fmt: skip

    def channels_second(self, x: Tensor) -> Tensor:
        """(n, l, d) as (n, d, l)."""
        return x.detach().as_subclass(Tensor).transpose(1, 2).to(self.dtype).contiguous()

    def _matrix(self, matrix: Tensor) -> Tensor:
        """(n, l, s) or (n, l, g, s) as (n, g, s, l)."""
        x = matrix.detach().as_subclass(Tensor)
        x = x[:, :, None] if x.dim() == 3 else x
        return x.permute(0, 2, 3, 1).to(self.dtype).contiguous()


def _weight(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach().as_subclass(Tensor).float().contiguous()


def _rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, d, l) as contiguous (n, l, d)."""
    return x.transpose(1, 2).to(dtype).contiguous()


def forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
    token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return y (n, l, d), the last state (n, d, s), the kernel's x, and its output before the gate (0 without one)."""
    n, length, num_channels = u.shape
    num_states = A.shape[1]
    if u.numel() == 0:  # a kernel cannot be launched on nothing
        states = torch.empty(n, num_channels, (length + 2047) // 2048, 2 * num_states, device=u.device)
        ungated = torch.empty((0,) if z is None else (n, num_channels, length), dtype=u.dtype, device=u.device)
        last_state = torch.zeros(n, num_channels, num_states, device=u.device)
        return torch.empty(u.shape, dtype=u.dtype, device=u.device), last_state, states, ungated
    out, states, *gated = _kernel.fwd(*_Call(u, delta, A, B, C, D, z, delta_bias).arguments, delta_softplus)
    last_state = states[:, :, -1, 1::2].clone(memory_format=torch.contiguous_format)
    ungated = out.to(u.dtype) if gated else out.new_empty(0, dtype=u.dtype)
    return _rows(gated[0] if gated else out, u.dtype), last_state, states, ungated


def backward(
    dy: Tensor, dlast_state: Tensor, states: Tensor, ungated: Tensor,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the gradients of u, delta, A, B, C, D, z, delta_bias and initial_state, in float32."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=u.device)

    gate_shape = (1, 1, 1) if z is None else u.shape
    no_bias, no_state = zeros(u.shape[2]), zeros(*dlast_state.shape)
    if u.numel() == 0:
        return (
            zeros(*u.shape), zeros(*u.shape), zeros(*A.shape), zeros(*B.shape), zeros(*C.shape), no_bias,
            zeros(*gate_shape), no_bias.clone(), no_state,
        )  # fmt: skip
    call = _Call(u, delta, A, B, C, D, z, delta_bias)
    n, length, num_channels = u.shape
    du, ddelta, dA, dB, dC, dD, dbias, *dz = _kernel.bwd(
        *call.arguments, call.channels_second(dy), states.view(n, num_channels, -1, 2 * A.shape[1]),
        None if z is None else ungated.view(n, num_channels, length).to(call.dtype), None, delta_softplus, False,
    )  # fmt: skip
    dB, dC = (
        grad.permute(0, 3, 1, 2).reshape(matrix.shape).float().contiguous() for grad, matrix in ((dB, B), (dC, C))
    )
    return (
        _rows(du, torch.float32), _rows(ddelta, torch.float32), dA, dB, dC, no_bias if dD is None else dD,
        _rows(dz[0], torch.float32) if dz else zeros(*gate_shape), no_bias.clone() if dbias is None else dbias,
        no_state,
    )  # fmt: skip
