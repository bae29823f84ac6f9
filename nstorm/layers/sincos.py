"""Sines and cosines of a position, for embeddings of place and time."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SinCos(nn.Module):
    """Describe positions by sines and cosines whose periods form a geometric series, the longest first.

    sin(2 pi p / P_k) for all k, then cos(2 pi p / P_k), with P_0 = `max_period` and P_{n-1} = `min_period`. There is
    nothing to learn.

    Args:
        num_periods: n; there are twice as many features.
        min_period: shortest period, in the unit of the positions.
        max_period: longest period.

    Raises:
        ValueError: if there is no period, or if the bounds are not positive or out of order.

    References:
        Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, section 3.5.

    Example:
        >>> import torch
        >>> from nstorm.layers.sincos import SinCos
        >>> SinCos(num_periods=8, min_period=4.0, max_period=64.0)(torch.arange(20.0)).shape
        torch.Size([20, 16])
    """

    def __init__(self, num_periods: int, min_period: float, max_period: float) -> None:
        super().__init__()
        if num_periods < 1:
            raise ValueError(f"num_periods {num_periods} must be 1 or more")
        if not 0 < min_period <= max_period < math.inf:
            raise ValueError(
                f"min_period {min_period} and max_period {max_period} must satisfy 0 < min_period <= max_period"
            )
        self.num_periods = num_periods
        self.min_period = min_period
        self.max_period = max_period

    def forward(self, position: Float[Tensor, "*positions"]) -> Float[Tensor, "*positions features"]:
        """Map positions (...) to features (..., 2 num_periods) in their type."""
        # made at each call, in microseconds: a buffer would be rounded by .to(bfloat16) and lost by .to_empty()
        steps = torch.linspace(1, 0, self.num_periods, device=position.device, dtype=position.dtype)
        periods = self.min_period * (self.max_period / self.min_period) ** steps
        angle = 2 * math.pi * position[..., None] / periods
        return torch.cat([angle.sin(), angle.cos()], -1)
