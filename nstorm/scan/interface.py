"""`selective_scan`, the public entry to all backends."""

from typing import Literal, overload

from jaxtyping import Bool, Float
from torch import Tensor

from nstorm.scan.backends import ScanCall, choose_backend
from nstorm.scan.checks import check_flags, check_shape
from nstorm.scan.operator import scan_operator
from nstorm.scan.reference import selective_scan_reference


@overload
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = ..., z: Tensor | None = ...,
    delta_bias: Tensor | None = ..., delta_softplus: bool = ..., *, initial_state: Tensor | None = ...,
    token_mask: Tensor | None = ..., reset: Tensor | None = ..., return_last_state: Literal[False] = ...,
    backend: str = ...,
) -> Tensor: ...  # fmt: skip
@overload
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = ..., z: Tensor | None = ...,
    delta_bias: Tensor | None = ..., delta_softplus: bool = ..., *, initial_state: Tensor | None = ...,
    token_mask: Tensor | None = ..., reset: Tensor | None = ..., return_last_state: Literal[True],
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
def selective_scan(
    u: Float[Tensor, "n d l"],
    delta: Float[Tensor, "n d l"],
    A: Float[Tensor, "d s"],
    B: Float[Tensor, "*b l"] | Float[Tensor, "d s"],
    C: Float[Tensor, "*b l"] | Float[Tensor, "d s"],
    D: Float[Tensor, " d"] | None = None,
    z: Float[Tensor, "n d l"] | None = None,
    delta_bias: Float[Tensor, " d"] | None = None,
    delta_softplus: bool = False,
    *,
    initial_state: Float[Tensor, "n d s"] | None = None,
    token_mask: Bool[Tensor, "n l"] | None = None,
    reset: Bool[Tensor, "n l"] | None = None,
    return_last_state: bool = False,
    backend: str = "auto",
) -> Float[Tensor, "n d l"] | tuple[Float[Tensor, "n d l"], Float[Tensor, "n d s"]]:
    r"""Run the selective state-space recurrence of Mamba along a sequence.

    For every sequence n and channel d, with a state h of s numbers and the step
    :math:`\Delta_t` = `delta` + `delta_bias`, through softplus if `delta_softplus`:

    .. math::
        h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t u_t, \qquad
        y_t = (C_t \cdot h_t + D u_t) \, \mathrm{silu}(z_t)

    The positional arguments are those of `mamba_ssm`'s `selective_scan_fn`. The state is float32, or float64 where
    `u` is float64. Memory in which channels are contiguous (a transposed `(n, l, d)` tensor) is read without a copy.
    Gradients can be taken once; for derivatives of gradients there is `backend="reference"`.

    Args:
        u: input `(n, d, l)`.
        delta: step size `(n, d, l)`, before bias and softplus.
        A: `(d, s)`, real; negative for a state that decays.
        B: input matrix `(n, s, l)`, in g groups of channels `(n, g, s, l)`, or constant `(d, s)`.
        C: output matrix, shaped as B may be.
        D: skip weight `(d,)`.
        z: gate `(n, d, l)`.
        delta_bias: `(d,)`, added to `delta`.
        delta_softplus: pass the step through softplus.
        initial_state: `(n, d, s)`, the state before the first token; zeros if None. Differentiable.
        token_mask: `(n, l)`, False for tokens to skip: they leave the state as it is, and their output is 0.
        reset: `(n, l)`, True where the state starts anew, from zeros, before the token is read.
        return_last_state: also return the state `(n, d, s)` after the last token. Differentiable.
        backend: `"auto"` (the fastest that takes the call), `"numba"` (CPU, float32), `"mamba_ssm"` (that package's
            CUDA kernel), `"torch"` (any device) or `"reference"`. `"auto"` heeds `nstorm.scan.use_backend`, then the
            environment variable `NSTORM_SCAN_BACKEND`. The variable is read when the scan is called; a function
            compiled or exported reads it when it is traced, and keeps what it read.

    Returns:
        y `(n, d, l)` in the type of `u`; with `return_last_state` the pair (y, last state).

    Raises:
        ValueError: if shapes do not fit, or a backend is asked for that cannot take the call.

    References:
        Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752, eq. 2-4.

    Example:
        >>> import torch
        >>> from nstorm.scan import selective_scan
        >>> u, delta = torch.randn(2, 8, 63), torch.rand(2, 8, 63)
        >>> A, B, C = -torch.rand(8, 16), torch.randn(2, 16, 63), torch.randn(2, 16, 63)
        >>> selective_scan(u, delta, A, B, C, delta_softplus=True).shape
        torch.Size([2, 8, 63])
    """
    if u.dim() != 3 or A.dim() != 2:
        raise ValueError(f"u must be (n, d, l) and A (d, s), got {tuple(u.shape)} and {tuple(A.shape)}")
    if A.is_complex():
        raise ValueError("A is complex; only the real recurrence of Mamba-1 is implemented")
    (n, num_channels, length), num_states = u.shape, A.shape[1]
    check_shape("A", A, (num_channels, num_states))
    check_shape("delta", delta, (n, num_channels, length))
    check_shape("z", z, (n, num_channels, length))
    check_shape("D", D, (num_channels,))
    check_shape("delta_bias", delta_bias, (num_channels,))
    check_shape("initial_state", initial_state, (n, num_channels, num_states))
    check_flags(token_mask, reset, (n, length))
    for name, matrix in (("B", B), ("C", C)):
        groups = matrix.shape[1] if matrix.dim() == 4 else 1
        if groups == 0 or num_channels % groups:
            raise ValueError(f"{name} has {groups} groups, which do not divide the {num_channels} channels of u")
        check_shape(
            name, matrix,
            (n, num_states, length), (n, groups, num_states, length), (num_channels, num_states),
        )  # fmt: skip
    tensors = {
        "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias,
        "initial_state": initial_state, "token_mask": token_mask, "reset": reset,
    }  # fmt: skip
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != u.device:
            raise ValueError(f"{name} is on {tensor.device} and u on {u.device}: move them to one device")
    # one group is none, which every backend takes
    B, C = (matrix[:, 0] if matrix.dim() == 4 and matrix.shape[1] == 1 else matrix for matrix in (B, C))

    call = ScanCall(
        u.device.type,
        u.dtype,
        (n, num_channels, length, num_states),
        (_num_groups(B), _num_groups(C)),
        initial_state is not None,
        token_mask is not None or reset is not None,
        return_last_state,
    )
    name = choose_backend(backend, call)
    if name == "reference":
        y, last_state = selective_scan_reference(
            u, delta, A, _grouped(B, n, length), _grouped(C, n, length), D, z, delta_bias, delta_softplus,
            initial_state, token_mask, reset,
        )  # fmt: skip
    else:
        y, last_state, _ = scan_operator(
            u.transpose(1, 2), delta.transpose(1, 2), A, _tokens_second(B), _tokens_second(C), D,
            None if z is None else z.transpose(1, 2), delta_bias, delta_softplus,
            initial_state, token_mask, reset, name,
        )  # fmt: skip
        y = y.transpose(1, 2)
    return (y, last_state) if return_last_state else y


def _num_groups(matrix: Tensor) -> int:
    """Groups of channels that B or C has; 0 where it is constant."""
    return matrix.shape[1] if matrix.dim() == 4 else matrix.dim() - 2


def _tokens_second(matrix: Tensor) -> Tensor:
    """(n, s, l) as (n, l, s) and (n, g, s, l) as (n, l, g, s); (d, s) has no tokens."""
    return matrix if matrix.dim() == 2 else matrix.movedim(-1, 1)


def _grouped(matrix: Tensor, n: int, length: int) -> Float[Tensor, "n g s l"]:
    """Give B or C its group axis: one group for `(n, s, l)`, one per channel where it is constant."""
    if matrix.dim() == 2:
        return matrix[None, :, :, None].expand(n, -1, -1, length)
    return matrix if matrix.dim() == 4 else matrix[:, None]
