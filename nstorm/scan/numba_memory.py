"""Hands torch's memory to the CPU kernels, and runs them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nstorm.scan.runs import RESET, SKIP
from nstorm.scan.simd import LANES
from nstorm.scan.threads import num_pieces, run_pieces
from nstorm.scan.units import Units

# address, stride of n, stride of t; no address for no tensor
Rows = tuple[int, int, int]


def empty(*shape: int) -> Tensor:
    """Float32 memory on the CPU, whatever the default type and device are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def zeros(*shape: int) -> Tensor:
    """The same, filled with zeros."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def plain(x: Tensor) -> Tensor:
    """In float32, without history, and without what a subclass such as MONAI's MetaTensor does to operations."""
    return x.detach().as_subclass(Tensor).float()


def readable(x: Tensor | None) -> Tensor | None:
    """In float32, with a contiguous last axis."""
    if x is None:
        return None
    x = plain(x)
    return x.contiguous() if x.stride(-1) != 1 and x.shape[-1] > 1 else x


def rows(x: Tensor | None) -> Rows:
    """Where an (n, l, c) tensor lies whose last axis is contiguous."""
    return (0, 0, 0) if x is None else (x.data_ptr(), x.stride(0), x.stride(1))


def address(x: Tensor | None) -> int:
    """Where a tensor lies; 0 for none."""
    return 0 if x is None else x.data_ptr()


def padded(x: Tensor | None, num_channels: int) -> Tensor:
    """A copy whose last axis, channels, is float32 with zeros up to a whole number of vectors."""
    if x is None:
        x = zeros(num_channels)
    return F.pad(plain(x), (0, -num_channels % LANES)).clone(memory_format=torch.contiguous_format)


def padded_state(state: Tensor, num_channels: int) -> Tensor:
    """(n, d, s) as (n, s, padded d)."""
    return padded(plain(state).transpose(1, 2), num_channels)


def unpadded(state: Tensor, num_channels: int) -> Tensor:
    """(n, s, padded d) as (n, d, s)."""
    return state[..., :num_channels].transpose(1, 2).contiguous()


def byte_flags(token_mask: Tensor | None, reset: Tensor | None) -> Tensor | None:
    """Both as bits of one byte a token."""
    given = [m for m in (token_mask, reset) if m is not None]
    if not given:
        return None
    flags = torch.zeros(given[0].shape, dtype=torch.uint8, device="cpu")
    if token_mask is not None:
        flags += ~token_mask.as_subclass(Tensor) * SKIP
    if reset is not None:
        flags += reset.as_subclass(Tensor) * RESET
    return flags


def cut(shape: tuple[int, int, int], reset: Tensor | None) -> Units:
    """Cut the work on an (n, l, d) tensor."""
    return Units.cut(*shape, None if reset is None else reset.numpy())


def launch(kernel: Callable[..., None], units: Units, scratch_size: int, *args: Any) -> None:
    """Run a kernel over all units, with so many float32 of scratch for each piece of the work."""
    num_units = len(units.table)
    pieces = num_pieces(num_units)
    scratch = empty(pieces, scratch_size)
    run_pieces(kernel, pieces, num_units, units.table, scratch.data_ptr(), *args)
