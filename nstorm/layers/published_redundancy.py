"""The drop probabilities of NeuroSTORM's redundancy dropout as published."""

from functools import lru_cache
from math import sqrt

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

# numbers for pairs of tokens that are held at a time
_PAIRS = 2**23


def published_drop_probability(
    x: Float[Tensor, "n h w d t c"], present: Bool[Tensor, "n h w d t"], spatial_size: int, temporal_size: int
) -> Float[Tensor, "n h w d t"]:
    """Compute the published probabilities; those of absent tokens, which must be 0 in x, are 0.

    With A = softmax(x x^T / sqrt(C)) over all N tokens of a window, and f_s(i), f_t(i) the largest A_ij in S(i) and in
    T(i) (see `RedundancyDropout`), or 0 where these are empty:
    W_ij = clamp(1/2 [f_t(i) A_ij / (sum of A_ij over S(i) + 1e-8) + f_s(i) A_ij / (sum over T(i) + 1e-8)], 0, 1) and
    p_i = clamp(sum of W_ij over all j / max(|S(i)| + |T(i)|, 1), 0, 1).
    """
    masks = neighbourhoods(tuple(x.shape[1:-1]), spatial_size, temporal_size)
    spatial, temporal = (torch.from_numpy(mask).to(x.device) for mask in masks)
    tokens = x.flatten(1, -2)
    at_a_time = max(1, _PAIRS // max(1, tokens.shape[1] ** 2))
    parts = zip(tokens.split(at_a_time), present.flatten(1).split(at_a_time), strict=True)
    return torch.cat([_probability(*part, spatial, temporal) for part in parts]).reshape(present.shape)


def _probability(
    x: Float[Tensor, "n l c"], present: Bool[Tensor, "n l"], spatial: Bool[Tensor, "l l"], temporal: Bool[Tensor, "l l"]
) -> Float[Tensor, "n l"]:
    attention = (x @ x.mT / sqrt(x.shape[-1])).masked_fill(~present[:, None], -torch.inf).softmax(-1)
    # also where a window has no token at all, which makes the softmax 0/0
    attention = attention.masked_fill(~present[:, None], 0.0)
    in_space, in_time = (torch.where(mask, attention, 0.0) for mask in (spatial, temporal))
    weight = in_time.amax(-1) / (in_space.sum(-1) + 1e-8) + in_space.amax(-1) / (in_time.sum(-1) + 1e-8)
    total = (weight[..., None] / 2 * attention).clamp(0, 1).sum(-1)
    neighbours = present.to(x) @ (spatial.to(x) + temporal.to(x))
    return torch.where(present, (total / neighbours.clamp(min=1)).clamp(0, 1), 0.0)


@lru_cache(maxsize=8)
def neighbourhoods(
    window: tuple[int, ...], spatial_size: int, temporal_size: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which tokens (second axis) are S(i) and which are T(i) of each token i (first) of a window (h, w, d, t)."""
    cells = np.indices(window).reshape(4, -1)
    apart = np.abs(cells[:, :, None] - cells[:, None, :])
    space, time = apart[:3].max(0), apart[3]
    spatial = (time == 0) & (space > 0) & (space <= spatial_size // 2)
    temporal = (space == 0) & (time > 0) & (time <= temporal_size // 2)
    return spatial, temporal
