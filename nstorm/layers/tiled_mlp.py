"""The MLP of a transformer block, a tile of tokens at a time.

Its hidden layer is the largest tensor of a block, four times as wide as the tokens. Here it is never whole: a tile
goes through both layers while it is in the cache, and backward computes it again instead of reading it from memory.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# elements of a hidden tile: 1 MB in float32
_TILE = 2**18


def _tiles(num_tokens: int, hidden: int) -> Iterator[slice]:
    rows = max(64, _TILE // hidden)
    return (slice(first, first + rows) for first in range(0, num_tokens, rows))


@torch.library.custom_op("nstorm::gelu_mlp", mutates_args=())
def gelu_mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Compute `linear(gelu(linear(x)))` of tokens (N, C), with the exact GELU.

    The weights are (hidden, C) and (C_out, hidden).
    """
    # a subclass such as MONAI's MetaTensor would do work of its own at every operation
    x = x.as_subclass(Tensor)
    y = x.new_empty(len(x), len(weight2))
    for tile in _tiles(len(x), len(weight1)):
        hidden = torch.addmm(bias1, x[tile], weight1.t())
        torch.addmm(bias2, torch.ops.aten.gelu_(hidden), weight2.t(), out=y[tile])
    return y


@gelu_mlp.register_fake
def _(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weight2.shape[0]))


@torch.library.custom_op("nstorm::gelu_mlp_backward", mutates_args=())
def gelu_mlp_backward(
    dy: Tensor, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight1, bias1, weight2 and bias2."""
    dy, x = dy.as_subclass(Tensor), x.as_subclass(Tensor)
    dx = torch.empty_like(x)
    # sums over tiles would lose what is small in half precision
    wide = torch.promote_types(x.dtype, torch.float32)
    dweight1, dbias1, dweight2 = (torch.zeros_like(p, dtype=wide) for p in (weight1, bias1, weight2))
    for tile in _tiles(len(x), len(weight1)):
        hidden = torch.addmm(bias1, x[tile], weight1.t())
        dhidden = torch.ops.aten.gelu_backward(dy[tile] @ weight2, hidden)
        _add_product(dweight2, dy[tile].t(), F.gelu(hidden))
        _add_product(dweight1, dhidden.t(), x[tile])
        dbias1 += dhidden.sum(0, dtype=wide)
        torch.mm(dhidden, weight1, out=dx[tile])
    return dx, dweight1.to(weight1.dtype), dbias1.to(bias1.dtype), dweight2.to(weight2.dtype), dy.sum(0)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


@gelu_mlp_backward.register_fake
def _(
    dy: Tensor, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    shapes = x.shape, weight1.shape, bias1.shape, weight2.shape, weight2.shape[:1]
    dx, dweight1, dbias1, dweight2, dbias2 = (x.new_empty(shape) for shape in shapes)
    return dx, dweight1, dbias1, dweight2, dbias2


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
    return gelu_mlp_backward(dy.contiguous(), *ctx.saved_tensors)


gelu_mlp.register_autograd(_backward, setup_context=_setup_context)
