"""The scans that are measured beside nstorm's, and the inputs that all of them get."""

import torch
import torch.nn.functional as F
from mambapy.pscan import pscan
from torch import Tensor


def scan_inputs(n: int, d: int, length: int, s: int) -> dict[str, Tensor]:
    """Inputs in the memory layout of a mixer, (n, l, channels), as transposed views."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    made = {
        "u": normal(n, length, d).transpose(1, 2),
        "delta": (0.5 * normal(n, length, d) - 2).transpose(1, 2),
        "A": -torch.arange(1, s + 1).float().repeat(d, 1),
        "B": normal(n, length, s).transpose(1, 2),
        "C": normal(n, length, s).transpose(1, 2),
        "D": normal(d),
        "z": normal(n, length, d).transpose(1, 2),
        "delta_bias": 0.1 * normal(d),
    }
    return {name: x.requires_grad_() for name, x in made.items()}


def mambapy_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """The composition around `mambapy.pscan` that its MambaBlock uses."""
    u, delta, B, C, z = (x.transpose(1, 2) for x in (u, delta, B, C, z))  # (n, l, channels)
    step = F.softplus(delta + delta_bias)
    decay = torch.exp(step.unsqueeze(-1) * A)
    drive = step.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1)
    states = pscan(decay, drive)
    y = (states @ C.unsqueeze(-1)).squeeze(3) + D * u
    return (y * F.silu(z)).transpose(1, 2)


def sequential_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """A Python loop over tokens on decays and drives made beforehand, as transformers runs Mamba without a kernel.

    Tokens are taken by `unbind`: with an index each, as transformers does, backward takes time quadratic in length.
    """
    step = F.softplus(delta + delta_bias[:, None])[..., None]  # (n, d, l, 1)
    decay = torch.exp(step * A[:, None])
    drive = step * u[..., None] * B.transpose(1, 2)[:, None]
    state = u.new_zeros(u.shape[0], *A.shape)
    outputs = []
    for a, b, c in zip(decay.unbind(2), drive.unbind(2), C.unbind(2), strict=True):
        state = a * state + b
        outputs.append((state @ c[..., None])[..., 0])
    return (torch.stack(outputs, dim=-1) + D[:, None] * u) * F.silu(z)
