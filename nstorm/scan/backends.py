"""The accelerated backends of the selective scan, and which of them takes a given call."""

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

_logger = logging.getLogger(__name__)
_told: set[str] = set()


@dataclass(frozen=True)
class Backend:
    """One accelerated implementation.

    `module` has `forward` and `backward` and is imported at first use; `refuse` says in words why a call cannot be
    taken, or None. For its backward pass it keeps the state before every `chunk` tokens, with channels padded to a
    multiple of `lanes`.
    """

    module: str
    chunk: int
    lanes: int
    refuse: Callable[[Tensor, Tensor, Tensor], str | None]

    def kernels(self) -> ModuleType:
        """Import the implementation."""
        return importlib.import_module(self.module)


def _numba_refuses(u: Tensor, A: Tensor, B: Tensor) -> str | None:
    if u.device.type not in ("cpu", "meta"):
        return f"it runs on the CPU and the tensors are on {u.device}"
    if torch.float64 in (u.dtype, A.dtype):
        return "it computes in float32 and the tensors are float64"
    if B.dim() != 3:
        return "it takes B and C of shape (n, s, l), without groups"
    return None


BACKENDS = {"numba": Backend("nstorm.scan.numba_backend", 32, 16, _numba_refuses)}


def choose_backend(requested: str, u: Tensor, A: Tensor, B: Tensor) -> str:
    """Name the backend that takes this call.

    `"auto"` tries the accelerated ones in order and says once, through `logging`, why one was passed over.

    Raises:
        ValueError: if the requested backend is unknown or refuses the call.
    """
    if requested == "reference":
        return requested
    if requested == "auto":
        for name, backend in BACKENDS.items():
            reason = backend.refuse(u, A, B)
            if reason is None:
                return name
            if reason not in _told:
                _told.add(reason)
                _logger.info("scan backend %r is passed over: %s", name, reason)
        return "reference"
    if requested not in BACKENDS:
        raise ValueError(f"backend {requested!r} is unknown; choose one of {['auto', 'reference', *BACKENDS]}")
    reason = BACKENDS[requested].refuse(u, A, B)
    if reason is not None:
        raise ValueError(f"backend {requested!r} cannot take this call: {reason}; use backend='auto'")
    return requested
