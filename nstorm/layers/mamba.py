"""The Mamba-1 mixer, with no compiled package behind it."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nstorm.layers.packing import on_packed
from nstorm.scan import causal_conv1d, selective_scan
from nstorm.scan.backends import ScanCall, choose_backend
from nstorm.scan.checks import check_flags
from nstorm.scan.mamba_inner import mamba_inner


class MambaState(NamedTuple):
    """All that a `MambaMixer` carries from token to token.

    Attributes:
        conv: the last d_conv - 1 inputs of the convolution, (N, inner, d_conv - 1).
        scan: the state of the scan, (N, inner, d_state), float32 or wider.
    """

    conv: Float[Tensor, "n inner past"]
    scan: Float[Tensor, "n inner s"]


class MambaMixer(nn.Module):
    """Mix the tokens of sequences causally with a selective state-space model.

    Its state dict equals that of `mamba_ssm.Mamba` with the same sizes, and so do its values; it runs on any device. On
    a CPU, convolution, projections, scan and gate are one operator that makes no copies between them.

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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MambaMixer":
        """Move or convert the parameters; `A_log` and `D` do not become shorter than float32."""

        def exact(x: Tensor) -> Tensor:
            converted = fn(x)
            short = converted.dtype in (torch.bfloat16, torch.float16)
            return x.to(device=converted.device, dtype=torch.float32) if short else converted

        if recurse:
            for module in self.children():
                module._apply(fn)
        # the mixer's own parameters are these two
        super()._apply(exact, recurse=False)
        return self

    def forward(
        self,
        x: Float[Tensor, "n l c"],
        *,
        token_mask: Bool[Tensor, "n l"] | None = None,
        reset: Bool[Tensor, "n l"] | None = None,
        state: MambaState | None = None,
        return_state: bool = False,
    ) -> Float[Tensor, "n l c"] | tuple[Float[Tensor, "n l c"], MambaState]:
        """Mix tokens (N, L, C) along L; the output at a token depends on it and those before it.

        Args:
            x: tokens.
            token_mask: (N, L), False for tokens to skip: they are absent from convolution and state, whatever they
                hold, and their output is 0.
            reset: (N, L), True where convolution and state start anew, as if the sequence began there.
            state: where an earlier part of the sequences ended; differentiable. Zeros if None.
            return_state: also return where these end, so that the next part can follow.

        Raises:
            ValueError: if `token_mask` or `reset` is not one boolean a token.
        """
        n, length, _ = x.shape
        check_flags(token_mask, reset, (n, length))
        widest = torch.promote_types(x.dtype, self.A_log.dtype)
        call = ScanCall(x.device.type, widest, (n, self.D.shape[0], length, self.d_state))
        # adapters put layers of their own in the places of the projections
        plain = type(self.x_proj) is type(self.dt_proj) is nn.Linear
        fused = plain and state is None and not return_state and choose_backend(self.backend, call) == "numba"
        # how many tokens are left is nothing that tracing could know
        eager = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if fused and token_mask is not None and eager and token_mask.any():
            return on_packed(
                lambda tokens, begins: self.out_proj(self._fused(self.in_proj(tokens), None, begins)),
                x, token_mask, reset,
            )  # fmt: skip
        if token_mask is not None:
            # or what a skipped token holds would be multiplied by its gradient of 0
            x = torch.where(token_mask[..., None], x, 0.0)
        xz = self.in_proj(x)
        if fused:
            y, last = self._fused(xz, token_mask, reset), None
        else:
            y, last = self._in_parts(xz, token_mask, reset, state, return_state)
        y = self.out_proj(y)
        if token_mask is not None and self.out_proj.bias is not None:
            y = torch.where(token_mask[..., None], y, 0.0)
        return y if last is None else (y, last)

    def _fused(self, xz: Tensor, token_mask: Tensor | None, reset: Tensor | None) -> Tensor:
        return mamba_inner(
            xz, self.conv1d.weight[:, 0], self.conv1d.bias, self.x_proj.weight, self.dt_proj.weight,
            self.dt_proj.bias, -self.A_log.exp(), self.D, token_mask, reset,
        )[0]  # fmt: skip

    def _in_parts(
        self, xz: Tensor, token_mask: Tensor | None, reset: Tensor | None, state: MambaState | None, return_state: bool
    ) -> tuple[Tensor, MambaState | None]:
        x, z = (part.transpose(1, 2) for part in xz.chunk(2, dim=-1))  # (n, inner, l) each
        x, conv = causal_conv1d(
            x, self.conv1d.weight[:, 0], self.conv1d.bias, silu=True,
            initial_state=None if state is None else state.conv, token_mask=token_mask, reset=reset,
            return_last_state=True, backend=self.backend,
        )  # fmt: skip
        step, B, C = self.x_proj(x.transpose(1, 2)).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        # the bias of dt_proj is added inside the scan, in float32
        step = F.linear(step, self.dt_proj.weight)
        # a backend that has no last state is asked for none
        asked: dict[str, Any] = {"return_last_state": return_state}
        y = selective_scan(
            x, step.transpose(1, 2), -self.A_log.exp(), B.transpose(1, 2), C.transpose(1, 2), self.D, z,
            self.dt_proj.bias, delta_softplus=True, initial_state=None if state is None else state.scan,
            token_mask=token_mask, reset=reset, backend=self.backend, **asked,
        )  # fmt: skip
        if not return_state:
            return y.transpose(1, 2), None
        y, scan = y
        return y.transpose(1, 2), MambaState(conv, scan)

    def step(self, x: Float[Tensor, "n c"], state: MambaState | None = None) -> tuple[Float[Tensor, "n c"], MambaState]:
        """Take one token (N, C) of each sequence as it arrives; returns its output and the state to go on from.

        Example:
            >>> import torch
            >>> from nstorm.layers import MambaMixer
            >>> mixer, state = MambaMixer(dim=24), None
            >>> for token in torch.randn(5, 2, 24):
            ...     y, state = mixer.step(token, state)
            >>> y.shape
            torch.Size([2, 24])
        """
        y, state = self(x[:, None], state=state, return_state=True)
        return y[:, 0], state
