"""Moving tokens from one list to another, forwards and backwards without additions."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor


class _Take(torch.autograd.Function):
    """Take tokens of (b, n, c) by index, zeros at the holes; backward takes them back by the inverse.

    The backward pass of `index_select` would add into a tensor of zeros, token by token.
    """

    @staticmethod
    def forward(x: Tensor, index: Tensor, holes: Tensor | None, inverse: Tensor, lost: Tensor | None) -> Tensor:
        taken = x.index_select(1, index)
        return taken if holes is None else taken.index_fill_(1, holes, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, holes, inverse, lost = ctx.saved_tensors
        return _Take.apply(grad, inverse, lost, index, holes), None, None, None, None


def take_tokens(
    x: Float[Tensor, "b tokens c"],
    index: Int64[Tensor, " places"],
    holes: Int64[Tensor, " k"] | None,
    inverse: Int64[Tensor, " tokens"],
    lost: Int64[Tensor, " j"] | None,
) -> Float[Tensor, "b places c"]:
    """Take tokens by index, each at most once, with zeros at the holes.

    Args:
        x: tokens.
        index: the token at each place; any at a hole.
        holes: places without a token; None for none.
        inverse: the place of each token; any where it has none.
        lost: tokens without a place; None for none.
    """
    taken: Tensor = _Take.apply(x, index, holes, inverse, lost)
    return taken


@dataclass(frozen=True, eq=False)
class TokenMap:
    """A list of places, each of which holds one of n tokens or none; no token stands in two places.

    Arrays and not tensors are kept, because a tensor keeps the mode it was made in (inference, tracing) for later
    callers.

    Attributes:
        index: (places,) the token at each place, -1 for none.
        inverse: (n,) the place of each token, -1 for none.

    Example:
        >>> import numpy as np, torch
        >>> from nstorm.scan.token_map import TokenMap
        >>> places = TokenMap.of(np.array([2, -1, 0]), num_tokens=3)
        >>> places.take(torch.tensor([[[10.0], [11.0], [12.0]]])).flatten()
        tensor([12.,  0., 10.])
        >>> places.put(torch.tensor([[[5.0], [6.0], [7.0]]])).flatten()
        tensor([7., 0., 5.])
    """

    index: NDArray[np.int64]
    inverse: NDArray[np.int64]
    _forth: "_Side" = field(init=False, repr=False)
    _back: "_Side" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_forth", _side(self.index))
        object.__setattr__(self, "_back", _side(self.inverse))

    @classmethod
    def of(cls, index: NDArray[np.int64], num_tokens: int) -> "TokenMap":
        """Make the inverse."""
        inverse = np.full(num_tokens, -1)
        held = np.flatnonzero(index >= 0)
        inverse[index[held]] = held
        return cls(index, inverse)

    def take(self, x: Float[Tensor, "b tokens c"]) -> Float[Tensor, "b places c"]:
        """Bring tokens to their places, zeros to the empty ones."""
        return self._move(x, self._forth, self._back)

    def put(self, x: Float[Tensor, "b places c"]) -> Float[Tensor, "b tokens c"]:
        """Bring what stands in the places back to their tokens, zeros to those without one."""
        return self._move(x, self._back, self._forth)

    def _move(self, x: Tensor, forth: "_Side", back: "_Side") -> Tensor:
        index, inverse = (torch.from_numpy(side[0]).to(x.device) for side in (forth, back))
        holes, lost = (None if side[1] is None else torch.from_numpy(side[1]).to(x.device) for side in (forth, back))
        return take_tokens(x, index, holes, inverse, lost)


# the token to take for each place, any for those that hold none; and which these are
_Side = tuple[NDArray[np.int64], NDArray[np.int64] | None]


def _side(places: NDArray[np.int64]) -> _Side:
    holes = np.flatnonzero(places < 0)
    return np.maximum(places, 0), holes if len(holes) else None
