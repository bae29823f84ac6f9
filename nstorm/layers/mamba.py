"""The Mamba-1 mixer, with no compiled package behind it."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nstorm.scan import selective_scan


class MambaMixer(nn.Module):
    """Mix the tokens of sequences causally with a selective state-space model.

    Its state dict equals that of `mamba_ssm.Mamba` with the same sizes, and so do its values; it runs on any device.

    Args:
        dim: channels of a token.
        d_state: numbers of state per inner channel.
        d_conv: taps of the causal convolution.
        expand: inner channels per channel.
        dt_rank: rank of the step size's projection; ceil(dim / 16) if "auto".
        dt_min: smallest step size at initialisation.
        dt_max: largest step size at initialisation.
        conv_bias: give the convolution a bias.
        bias: give the two outer projections a bias.
        backend: of the scan, see `nstorm.scan.selective_scan`.
        device: where the parameters live.
        dtype: their type; `A_log` and `D` stay float32 unless it is float64.

    References:
        Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752.

    Example:
        >>> import torch
        >>> from nstorm.layers import MambaMixer
        >>> MambaMixer(dim=24, d_state=8)(torch.randn(2, 63, 24)).shape
        torch.Size([2, 63, 24])
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        conv_bias: bool = True,
        bias: bool = False,
        backend: str = "auto",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min {dt_min} and dt_max {dt_max} must satisfy 0 < dt_min <= dt_max")
        inner = expand * dim
        self.d_state = d_state
        self.dt_rank = math.ceil(dim / 16) if dt_rank == "auto" else dt_rank
        self.dt_range = dt_min, dt_max
        self.backend = backend
        state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self.in_proj = nn.Linear(dim, 2 * inner, bias=bias, device=device, dtype=dtype)
        self.conv1d = nn.Conv1d(
            inner, inner, d_conv, groups=inner, padding=d_conv - 1, bias=conv_bias, device=device, dtype=dtype
        )
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False, device=device, dtype=dtype)
        self.dt_proj = nn.Linear(self.dt_rank, inner, device=device, dtype=dtype)
        self.A_log = nn.Parameter(torch.empty(inner, d_state, device=device, dtype=state_dtype))
        self.D = nn.Parameter(torch.empty(inner, device=device, dtype=state_dtype))
        self.out_proj = nn.Linear(inner, dim, bias=bias, device=device, dtype=dtype)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as Mamba does: A = -(1..d_state), steps log-uniform in [dt_min, dt_max] after softplus."""
        for layer in (self.in_proj, self.conv1d, self.x_proj, self.out_proj):
            layer.reset_parameters()
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        low, high = (math.log(value) for value in self.dt_range)
        step = torch.empty_like(self.dt_proj.bias).uniform_(low, high).exp().clamp(min=1e-4)
        # the inverse of softplus
        self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))
        states = torch.arange(1, self.d_state + 1, device=self.A_log.device, dtype=self.A_log.dtype)
        self.A_log.copy_(states.log().expand_as(self.A_log))
        nn.init.ones_(self.D)

    def forward(self, x: Float[Tensor, "n l c"]) -> Float[Tensor, "n l c"]:
        """Mix tokens (N, L, C) along L; the output at a token depends on it and those before it."""
        length = x.shape[1]
        x, z = self.in_proj(x).chunk(2, dim=-1)  # (n, l, inner) each
        x = F.silu(self.conv1d(x.transpose(1, 2))[..., :length])  # (n, inner, l)
        step, B, C = self.x_proj(x.transpose(1, 2)).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        # the bias of dt_proj is added inside the scan, in float32
        step = F.linear(step, self.dt_proj.weight)
        y = selective_scan(
            x,
            step.transpose(1, 2),
            -self.A_log.exp(),
            B.transpose(1, 2),
            C.transpose(1, 2),
            self.D,
            z.transpose(1, 2),
            self.dt_proj.bias,
            delta_softplus=True,
            backend=self.backend,
        )
        return self.out_proj(y.transpose(1, 2))
