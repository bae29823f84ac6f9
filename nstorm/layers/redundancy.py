"""How alike the tokens of a window are to their neighbours, and drop probabilities of a wanted mean made from that."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

# What every score is raised by: where none is redundant all are dropped alike, and rounding is no redundancy.
_LEAST = 1e-3
# A round divides by 4 or more the product of what is missing of the rate and of the weight below the cap (Newton's
# method on a concave function). No weight is less than `_LEAST`, so 4^16 leave less than 1e-5 missing at rates to 0.9.
_ROUNDS = 16
# numbers of tokens that are compared at a time
_IN_CACHE = 2**19

# axes, and how far to look along them
_Reach = tuple[tuple[tuple[int, ...], int], ...]


@dataclass(frozen=True, eq=False)
class WindowGroups:
    """Which windows belong to the same sample.

    Attributes:
        owner: the sample of each window.
        members: for each sample 1 at its windows, 0 at the others.

    Example:
        >>> import torch
        >>> from nstorm.layers.redundancy import WindowGroups
        >>> groups = WindowGroups.of([2, 1], torch.ones(3, 4))
        >>> groups.sum(torch.tensor([1.0, 2.0, 30.0]))
        tensor([ 3., 30.])
    """

    owner: Int64[Tensor, " n"]
    members: Float[Tensor, "samples n"]

    @classmethod
    @torch.compiler.disable
    def of(cls, windows_per_sample: Sequence[int] | None, x: Tensor) -> "WindowGroups":
        """Of windows x (n, ...) that stand sample by sample; of one sample where the numbers are None."""
        counts = [len(x)] if windows_per_sample is None else list(windows_per_sample)
        if min(counts, default=0) < 0 or sum(counts) != len(x):
            raise ValueError(f"windows_per_sample {counts} must be 0 or more each, and {len(x)} (the windows) in all")
        # on the CPU whatever the default device is: the numbers are wanted here
        numbers = torch.tensor(counts, dtype=torch.int64, device="cpu")
        owner = torch.arange(len(counts), device="cpu").repeat_interleave(numbers)
        return cls(owner.to(x.device), F.one_hot(owner, len(counts)).T.to(x))

    def sum(self, windows: Float[Tensor, "n ..."]) -> Float[Tensor, "samples ..."]:
        """Add up, for each sample, a number or a vector of each window."""
        return self.members @ windows

    def each(self, samples: Float[Tensor, "samples ..."]) -> Float[Tensor, "n ..."]:
        """Give every window what its sample has."""
        return samples[self.owner]


def neighbour_similarity(
    x: Float[Tensor, "n h w d t c"],
    present: Bool[Tensor, "n h w d t"],
    groups: WindowGroups,
    spatial_size: int,
    temporal_size: int,
) -> Float[Tensor, "n h w d t"]:
    """Score, in [0, 1], how alike every token is to its neighbours; 0 for those without any. Absent tokens must be 0.

    The cosine with every neighbour is averaged over S(i) and over T(i) (see `RedundancyDropout`), and the score is the
    mean of these two, or the only one there is, clamped. With unit vectors u the mean cosine is
    <u_i, sum of u_j over S(i)> / |S(i)|, so it takes sums over boxes, and not a number for each pair of tokens.

    Before that the mean token of the sample is taken away. What a mixer gives to all tokens alike (its bias, the mean
    of the volume) says nothing about them, but as it can be far larger than what they differ by, all cosines would be
    close to 1. The mean is not that of the window, which S(i) nearly fills: what remains there sums up to 0, so that
    even a smooth field would look no more alike than noise, and identical tokens would be 0/0.
    """
    own = present.to(x)
    count = groups.sum(own.flatten(1).sum(1)).clamp(min=1)
    mean = groups.sum(x.sum((1, 2, 3, 4))) / count[:, None]
    size = (groups.sum(torch.linalg.vector_norm(x.flatten(1), dim=1).square()) / count).sqrt()
    # where a whole sample is one and the same token, rounding is all that is left: it must not become a direction
    least = (100 * torch.finfo(x.dtype).eps * size).clamp(min=torch.finfo(x.dtype).tiny)
    # a CPU computes windows by parts that its cache holds
    at_a_time = max(1, _IN_CACHE // max(1, x[:1].numel()) if x.device.type == "cpu" else len(x))
    parts = [each.split(at_a_time) for each in (x, own, groups.each(mean), groups.each(least))]
    reach = ((1, 2, 3), spatial_size // 2), ((4,), temporal_size // 2)
    return torch.cat([_similarity(reach, *part) for part in zip(*parts, strict=True)])


def _similarity(reach: _Reach, x: Tensor, own: Tensor, mean: Tensor, least: Tensor) -> Tensor:
    x = x - mean[:, None, None, None, None]
    length = torch.linalg.vector_norm(x, dim=-1)
    scale = own / torch.maximum(length, least[:, None, None, None, None])
    unit, itself = x.mul_(scale[..., None]), (length * scale).square()
    total, kinds = torch.zeros_like(own), torch.zeros_like(own)
    for axes, radius in reach:
        neighbours = own * (box_sum(own, axes, radius) - own)
        total += (box_sum(unit, axes, radius).mul_(unit).sum(-1) - itself) / neighbours.clamp(min=1)
        kinds += neighbours > 0
    # 0 without neighbours, where rounding may have left something in `total`
    return torch.where(kinds > 0, total / kinds.clamp(min=1), 0.0).clamp(0, 1)


def box_sum(x: Float[Tensor, "*any"], axes: Sequence[int], radius: int) -> Float[Tensor, "*any"]:
    """Add up, along each of the axes, everything up to so many places away; nothing lies beyond the ends."""
    for axis in axes:
        size = x.shape[axis]
        steps, sign = range(1, radius + 1), 1
        total = x
        if 2 * radius >= size:
            # all but what is further away
            steps, sign = range(radius + 1, size), -1
            total = x.sum(axis, keepdim=True).expand_as(x)
        total = total.clone(memory_format=torch.contiguous_format)
        for step in steps:
            total.narrow(axis, 0, size - step).add_(x.narrow(axis, step, size - step), alpha=sign)
            total.narrow(axis, step, size - step).add_(x.narrow(axis, 0, size - step), alpha=sign)
        x = total
    return x


def spread_rate(
    score: Float[Tensor, "n ..."], present: Bool[Tensor, "n ..."], groups: WindowGroups, rate: float
) -> Float[Tensor, "n ..."]:
    """Make probabilities that grow with the score, and whose mean over the present tokens of a sample is the rate.

    They are proportional to the score but for a cap halfway between the rate and 1, by which 1/(1-p) stays below
    2/(1-rate). What a token at the cap would have had more goes to the others, in proportion again.
    """
    cap = (1 + rate) / 2
    weight = torch.where(present, score + _LEAST, 0.0).flatten(1)
    wanted = rate * groups.sum(present.flatten(1).sum(1).to(score))
    level = torch.zeros_like(wanted)
    for _ in range(_ROUNDS):
        # Newton's method for the level at which the capped weights add up to what is wanted, from below
        capped = weight * groups.each(level)[:, None] >= cap
        below = groups.sum(torch.where(capped, 0.0, weight).sum(1))
        missing = wanted - cap * groups.sum(capped.sum(1).to(score))
        level = missing / below.clamp(min=torch.finfo(score.dtype).tiny)
    return (weight * groups.each(level)[:, None]).clamp(max=cap).reshape(score.shape)
