"""The accelerated backends of the selective scan, and which of them takes a given call."""

import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from nstorm.scan.torch_backend import CHUNK, state_dtype

VARIABLE = "NSTORM_SCAN_BACKEND"

# who asks for a backend, as messages say it
_ARGUMENT = "backend {!r}"
_CONTEXT = "backend {!r} of use_backend"
_ENVIRONMENT = f"backend {{!r}} of the environment variable {VARIABLE}"

_logger = logging.getLogger(__name__)
_told: set[tuple[str, str]] = set()


class ScanCall(NamedTuple):
    """What the choice of a backend depends on.

    Attributes:
        device: type of the tensors' device, such as `"cuda"`.
        dtype: of u.
        shape: number of sequences, channels, tokens and states.
        groups: of B and of C, 0 where the matrix is constant along the sequence.
        has_initial_state: starts from a given state.
        has_flags: has tokens to skip or places where the state starts anew.
        wants_last_state: asks for the state after the last token.
    """

    device: str
    dtype: torch.dtype
    shape: tuple[int, int, int, int]
    groups: tuple[int, int] = (1, 1)
    has_initial_state: bool = False
    has_flags: bool = False
    wants_last_state: bool = False


@dataclass(frozen=True)
class Backend:
    """One accelerated implementation.

    Attributes:
        module: imported at first use; has `forward` and `backward` as `nstorm.scan.operator` calls them.
        refuse: says in words why a call cannot be taken, or None.
        kept: from u (n, l, d), A and z, tensors like those that `forward` returns beside y and the last state, flat.
    """

    module: str
    refuse: Callable[[ScanCall], str | None]
    kept: Callable[[Tensor, Tensor, Tensor | None], list[Tensor]]

    def kernels(self) -> ModuleType:
        """Import the implementation."""
        return importlib.import_module(self.module)


def _numba_refuses(call: ScanCall) -> str | None:
    if call.device not in ("cpu", "meta"):
        return f"it runs on the CPU and the tensors are on {call.device}"
    if call.dtype == torch.float64:
        return "it computes in float32 and the tensors are float64"
    if call.groups != (1, 1):
        return "it takes B and C of shape (n, s, l), without groups"
    return None


def _numba_keeps(u: Tensor, A: Tensor, z: Tensor | None) -> list[Tensor]:
    n, length, num_channels = u.shape
    chunks, vectors = (length + 31) // 32, (num_channels + 15) // 16
    return [u.new_empty(n * chunks * A.shape[1] * 16 * vectors, dtype=torch.float32)]


def _mamba_ssm_refuses(call: ScanCall) -> str | None:
    if call.device != "cuda":
        return f"it runs on CUDA devices and the tensors are on {call.device}"
    if call.dtype == torch.float64:
        return "it computes in float32 and the tensors are float64"
    if 0 in call.groups or call.groups[0] != call.groups[1]:
        return "it takes B and C that vary along the sequence, in equally many groups"
    if call.has_initial_state or call.wants_last_state:
        return "it has no differentiable initial and last state"
    if call.has_flags:
        return "it has no token_mask and no reset"
    if call.shape[3] > 256:
        return f"it takes at most 256 states and A has {call.shape[3]}"
    from nstorm.scan.mamba_ssm_backend import MISSING

    return MISSING


def _mamba_ssm_keeps(u: Tensor, A: Tensor, z: Tensor | None) -> list[Tensor]:
    n, length, num_channels = u.shape
    states = u.new_empty(n * num_channels * ((length + 2047) // 2048) * 2 * A.shape[1], dtype=torch.float32)
    return [states, u.new_empty(0 if z is None else n * num_channels * length)]


def _torch_keeps(u: Tensor, A: Tensor, z: Tensor | None) -> list[Tensor]:
    n, length, num_channels = u.shape
    chunks = (length + CHUNK - 1) // CHUNK
    return [u.new_empty(chunks * n * A.shape[1] * num_channels, dtype=state_dtype(u))]


# `auto` tries them in this order. The last one takes every call.
BACKENDS = {
    "numba": Backend("nstorm.scan.numba_backend", _numba_refuses, _numba_keeps),
    "mamba_ssm": Backend("nstorm.scan.mamba_ssm_backend", _mamba_ssm_refuses, _mamba_ssm_keeps),
    "torch": Backend("nstorm.scan.torch_backend", lambda call: None, _torch_keeps),
}


_override: ContextVar[str | None] = ContextVar("nstorm.scan.backend", default=None)


class _Traced(threading.local):
    """The override as `torch.compile` can read it.

    PyTorch 2.8 cannot trace a context variable. It does read an attribute of the thread, and traces anew when that
    has changed, if the attribute stands on the object and not on its class.
    """

    def __init__(self) -> None:
        self.backend: str | None = None


_traced = _Traced()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Let scans inside of the `with` block, on this thread and in this asyncio task, run on a backend.

    It replaces the environment variable `NSTORM_SCAN_BACKEND`; a `backend` given as an argument replaces both. A
    function compiled by `torch.compile` traces anew where it is called under another backend; it sees what the thread
    set last, so where several tasks of one thread run compiled scans, do not await inside of the block.

    Args:
        name: as the argument `backend` of `selective_scan`; `"auto"` undoes a surrounding choice.

    Raises:
        ValueError: if the backend is unknown.

    Example:
        >>> import torch
        >>> from nstorm.scan import selective_scan, use_backend
        >>> u, A, B = torch.randn(2, 8, 63), -torch.rand(8, 16), torch.randn(2, 16, 63)
        >>> with use_backend("reference"):
        ...     y = selective_scan(u, u.sigmoid(), A, B, B)
        >>> y.shape
        torch.Size([2, 8, 63])
    """
    _check_known(name, _CONTEXT)
    if torch.compiler.is_dynamo_compiling():
        before, _traced.backend = _traced.backend, name
        try:
            yield
        finally:
            _traced.backend = before
    else:
        token, _traced.backend = _override.set(name), name
        try:
            yield
        finally:
            _override.reset(token)
            _traced.backend = _override.get()


def choose_backend(requested: str, call: ScanCall) -> str:
    """Name the backend that takes this call.

    What is requested counts first, then `use_backend`, then the environment variable `NSTORM_SCAN_BACKEND`; `"auto"`
    leaves the choice to the next of them. In the end it tries the accelerated backends in order and says once,
    through `logging`, why one was passed over.

    Raises:
        ValueError: if the requested backend is unknown or refuses the call.
    """
    name, source = _wanted(requested)
    _check_known(name, source)
    if name == "reference":
        return name
    if name == "auto":
        return _first_that_takes(call)
    reason = BACKENDS[name].refuse(call)
    if reason is not None:
        raise ValueError(f"{source.format(name)} cannot take this call: {reason}; use 'auto'")
    return name


def _first_that_takes(call: ScanCall) -> str:
    for name, backend in BACKENDS.items():
        reason = backend.refuse(call)
        if reason is None:
            break
        _tell(name, reason)
    return name


def _wanted(requested: str) -> tuple[str, str]:
    """The backend that is asked for, and who asks."""
    if requested != "auto":
        return requested, _ARGUMENT
    override = _traced.backend if torch.compiler.is_dynamo_compiling() else _override.get()
    if override is not None:
        return override, _CONTEXT
    return os.environ.get(VARIABLE) or "auto", _ENVIRONMENT


def _check_known(name: str, source: str) -> None:
    if name not in BACKENDS and name not in ("auto", "reference"):
        raise ValueError(f"{source.format(name)} is unknown; choose one of {['auto', 'reference', *BACKENDS]}")


def _tell(name: str, reason: str) -> None:
    # tracing cannot log
    if (name, reason) not in _told and not torch.compiler.is_dynamo_compiling():
        _told.add((name, reason))
        _logger.info("scan backend %r is passed over: %s", name, reason)
