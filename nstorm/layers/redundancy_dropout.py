"""Dropout that hits redundant tokens more often (STRD)."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nstorm.layers.published_redundancy import published_drop_probability
from nstorm.layers.redundancy import WindowGroups, neighbour_similarity, spread_rate

VARIANTS = ("similarity", "published")


class RedundancyDropout(nn.Module):
    """Set tokens of windows to zero in training, the likelier the more they are like their neighbours.

    Neighbours of token i are S(i), the other tokens of its frame at most `spatial_size // 2` places away along h, w and
    d, and T(i), those of its place at most `temporal_size // 2` frames away. They lie in the same window.

    `variant="similarity"`: the more redundant a token, the likelier it is dropped. `redundancy` is its mean cosine with
    its neighbours after the mean token is taken away. Probabilities are proportional to it, their mean over the tokens
    of a sample is `rate`, and none is above (1 + rate) / 2. Tokens that stay are multiplied by 1/(1-p), so that the
    expectation of the output is the input. Time and memory grow with the number of tokens, whatever the window.

    `variant="published"`: NeuroSTORM's formula (`published_drop_probability`). Its title says the same, but it does
    the opposite, hardly: at the published window of 256 tokens it drops identical ones 0.5 % of the time and random
    ones 3.9 %. It has no rate (0 turns it off, any other changes nothing), does not rescale what stays, and compares
    all tokens of a window with all others.

    Probabilities are numbers for the gradient, which flows through the tokens that stay: in expectation (and with the
    rescaling) it is that of no dropout. That of p would lack its larger part, by which p decides what is drawn.

    Args:
        rate: share of the tokens to drop, from 0 (nothing happens) to below 1.
        variant: `"similarity"` or `"published"`.
        spatial_size: width of the neighbourhood in space, in tokens.
        temporal_size: width of the neighbourhood in time, in tokens.

    Raises:
        ValueError: if an argument is out of range; in `forward`, if a mask or the numbers of windows do not fit.

    References:
        "NeuroSTORM", arXiv:2506.11167 (spatiotemporal redundancy dropout).

    Example:
        >>> import torch
        >>> from nstorm.layers import RedundancyDropout
        >>> dropout = RedundancyDropout(rate=0.25)
        >>> x = torch.randn(2, 4, 3, 4, 5, 24)
        >>> dropout(x).shape
        torch.Size([2, 4, 3, 4, 5, 24])
        >>> dropout.drop_probability(x).mean()
        tensor(0.2500)
    """

    def __init__(
        self, rate: float = 0.1, variant: str = "similarity", spatial_size: int = 5, temporal_size: int = 5
    ) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate {rate} must be 0 or more and below 1")
        if variant not in VARIANTS:
            raise ValueError(f"variant {variant!r} is unknown; choose one of {list(VARIANTS)}")
        if min(spatial_size, temporal_size) < 1:
            raise ValueError(f"spatial_size {spatial_size} and temporal_size {temporal_size} must be 1 or more")
        self.rate, self.variant = rate, variant
        self.spatial_size, self.temporal_size = spatial_size, temporal_size

    @property
    def active(self) -> bool:
        """Whether anything is dropped: in training, at a rate above 0."""
        return self.training and self.rate > 0

    def forward(
        self,
        x: Float[Tensor, "n h w d t c"],
        token_mask: Bool[Tensor, "n h w d t"] | None = None,
        *,
        windows_per_sample: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n h w d t c"]:
        """Map windows (N, h, w, d, t, C), or whole grids, to the same shape.

        Args:
            x: tokens.
            token_mask: False for absent tokens, such as air and padding, which are returned as they are: they are
                nobody's neighbour, count for nothing, and may hold anything.
            windows_per_sample: how many windows belong to each sample, where they stand one sample after the other;
                None if all belong to one. The mean token and the rate are those of a sample.
            generator: draws what is dropped; None for torch's own of that device.
        """
        if not self.active:
            return x
        return x * self.factors(x, token_mask, windows_per_sample, generator)[..., None]

    @torch.no_grad()
    def factors(
        self,
        x: Float[Tensor, "n h w d t c"],
        token_mask: Bool[Tensor, "n h w d t"] | None = None,
        windows_per_sample: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n h w d t"]:
        """Draw what each token is multiplied by: 0, or 1/(1-p) (published: 1); see `forward`."""
        probability = self.drop_probability(x, token_mask, windows_per_sample)
        # torch.compile cannot draw sizes that it leaves open where a generator is given, not even with None
        given: dict[str, Any] = {} if generator is None else {"generator": generator}
        drawn = torch.rand(probability.shape, dtype=probability.dtype, device=probability.device, **given)
        kept = torch.ones_like(probability) if self.variant == "published" else 1 / (1 - probability)
        return torch.where(drawn < probability, 0.0, kept).to(x.dtype)

    @torch.no_grad()
    def drop_probability(
        self,
        x: Float[Tensor, "n h w d t c"],
        token_mask: Bool[Tensor, "n h w d t"] | None = None,
        windows_per_sample: Sequence[int] | None = None,
    ) -> Float[Tensor, "n h w d t"]:
        """Compute the probability of each token to be dropped, in training at this rate; 0 for absent ones."""
        if self.rate == 0:
            return torch.zeros_like(x[..., 0])
        x, present, groups = _prepared(x, token_mask, windows_per_sample)
        with _exact(x):
            if self.variant == "published":
                return published_drop_probability(x, present, self.spatial_size, self.temporal_size)
            score = neighbour_similarity(x, present, groups, self.spatial_size, self.temporal_size)
            return spread_rate(score, present, groups, self.rate)

    @torch.no_grad()
    def redundancy(
        self,
        x: Float[Tensor, "n h w d t c"],
        token_mask: Bool[Tensor, "n h w d t"] | None = None,
        windows_per_sample: Sequence[int] | None = None,
    ) -> Float[Tensor, "n h w d t"]:
        """Score the redundancy of each token from 0 (like no neighbour) to 1 (like all), whatever the variant."""
        x, present, groups = _prepared(x, token_mask, windows_per_sample)
        with _exact(x):
            return neighbour_similarity(x, present, groups, self.spatial_size, self.temporal_size)

    def extra_repr(self) -> str:
        """Name the settings."""
        sizes = f"spatial_size={self.spatial_size}, temporal_size={self.temporal_size}"
        return f"rate={self.rate}, variant={self.variant!r}, {sizes}"


def _prepared(
    x: Tensor, token_mask: Tensor | None, windows_per_sample: Sequence[int] | None
) -> tuple[Tensor, Tensor, WindowGroups]:
    """Plain tokens in single precision or better, 0 where absent; which are present; and whose they are."""
    if token_mask is not None and token_mask.shape != x.shape[:-1]:
        raise ValueError(f"token_mask has shape {tuple(token_mask.shape)}, expected {tuple(x.shape[:-1])}")
    x = x.as_subclass(Tensor)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if token_mask is None:
        return x, torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device), WindowGroups.of(windows_per_sample, x)
    present = token_mask.as_subclass(Tensor)
    return torch.where(present[..., None], x, 0.0), present, WindowGroups.of(windows_per_sample, x)


def _exact(x: Tensor) -> AbstractContextManager[object]:
    """Keep autocast out: cosines and rates need their digits."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
