"""Masks of the regions of an atlas."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from nstorm.layers.mask_drawing import MaskDrawing, check_some
from nstorm.layers.token_mask import TokenMask


class AtlasMask(TokenMask):
    """Hide whole regions of an atlas over the whole clip.

    A region's tokens correlate, so that hiding some of them leaves a copy of the rest in view; hiding the region asks
    what the others tell of it. Regions are hidden in a random order, as many as bring the share of hidden tokens
    closest to the ratio: it is off by at most half the size of a region. (The published atlas masks hid 39 % where
    50 % were asked for.) But at least one region is hidden (unless the ratio is 0), and never all of several.

    The atlas is an argument and no weight: it is in no state dict, stays on the CPU wherever the module goes, and is
    brought to the masks when these are drawn.

    Args:
        ratio: share of the tokens with a region to hide, 0 or more and below 1.
        labels: (h, w, d), the region of each token; those of 0 have none, are never hidden and do not count. See
            `from_volume` for an atlas of voxels.

    Raises:
        ValueError: if the ratio is out of range, or `labels` is not 3D, without any region, or of no whole numbers.

    References:
        "NeuroSTORM", arXiv:2506.11167.

    Example:
        >>> import torch
        >>> from nstorm.layers import AtlasMask
        >>> labels = torch.arange(1, 11).view(10, 1, 1).expand(10, 4, 4)
        >>> hidden = AtlasMask(0.5, labels)((2, 10, 4, 4, 20))
        >>> hidden.shape, hidden.all((2, 3, 4)).sum(1)
        (torch.Size([2, 10, 4, 4, 20]), tensor([5, 5]))
    """

    def __init__(self, ratio: float, labels: Int[Tensor, "h w d"]) -> None:
        super().__init__(ratio)
        if labels.ndim != 3:
            raise ValueError(f"labels has shape {tuple(labels.shape)}, but it must be one for each token (h, w, d)")
        # No buffer: `to_empty` would leave anything in it, and parallel training send it around. On the CPU whatever
        # the default device is.
        self.regions, self.num_regions = _numbered(_whole(labels).cpu())
        if self.num_regions == 0:
            raise ValueError("labels is 0 everywhere: it must give some tokens a region")

    @classmethod
    def from_volume(cls, ratio: float, labels: Int[Tensor, "H W D"], patch_size: Sequence[int]) -> "AtlasMask":
        """Make the mask from an atlas of voxels: a token's region is the commonest label of its voxels but 0.

        Args:
            ratio: share of the tokens with a region to hide.
            labels: (H, W, D) on the grid of the volumes that are masked, such as
                `nstorm.data.resample_atlas(atlas, run).image[0]`.
            patch_size: voxels of a patch along h, w, d; a fourth entry, that of time, does not matter.

        Example:
            >>> from nstorm.data import resample_atlas, rest_run, schaefer_atlas
            >>> from nstorm.layers import AtlasMask
            >>> atlas = resample_atlas(schaefer_atlas(100), rest_run().bold)
            >>> AtlasMask.from_volume(0.5, atlas.image[0], patch_size=(4, 4, 4, 1))
            AtlasMask(ratio=0.5, regions=100, grid=(12, 14, 12))
        """
        if labels.ndim != 3:
            raise ValueError(f"labels has shape {tuple(labels.shape)}, but it must be a volume (H, W, D)")
        return cls(ratio, _commonest(_whole(labels), patch_size))

    def hide(self, draw: MaskDrawing) -> Bool[Tensor, "b h w d t"]:
        """Hide regions in a random order, until there are enough.

        Raises:
            ValueError: if the labels are for another grid, or no token of the brain has a region.
        """
        if draw.shape[1:4] != tuple(self.regions.shape):
            raise ValueError(
                f"labels are for tokens on the grid {tuple(self.regions.shape)}, but shape {draw.shape} has "
                f"{draw.shape[1:4]}"
            )
        regions = self.regions.to(draw.device)
        tokens = draw.brain & (regions > 0)
        check_some(tokens, "no token of brain_tokens has a region in a sample: labels and brain must overlap")
        hidden = self._hidden_regions(draw, tokens, regions)
        # (b, h * w * d)
        of_tokens = hidden.gather(1, regions.view(1, -1).expand(len(hidden), -1))
        return (of_tokens.view(-1, *regions.shape) & tokens)[..., None].expand(draw.shape).contiguous()

    def _hidden_regions(
        self, draw: MaskDrawing, tokens: Bool[Tensor, "b h w d"], regions: Int[Tensor, "h w d"]
    ) -> Bool[Tensor, "samples regions"]:
        """Which of the regions each sample hides; for 0, and regions that it has nothing of, that means nothing."""
        places, size = tokens.flatten(1).long(), self.num_regions + 1
        sizes = places.new_zeros(len(places), size).scatter_add_(1, regions.view(1, -1).expand_as(places), places)
        # regions without a token in the brain come first, and with them 0, which is none
        order = torch.where(sizes > 0, draw.keys(size), -1).argsort(1)
        # totals[:, k] is the size of all regions up to the k-th, which is the last that is hidden
        totals = sizes.expand_as(order).gather(1, order).cumsum(1)
        last = (totals - self.ratio * totals[:, -1:].double()).abs().argmin(1, keepdim=True)
        if self.ratio > 0:
            first = (sizes == 0).sum(1, keepdim=True)
            last = last.clamp(min=first, max=first.clamp(min=size - 2))
        chosen = torch.arange(size, device=last.device) <= last
        return torch.zeros_like(chosen).scatter_(1, order, chosen)

    def extra_repr(self) -> str:
        """Ratio, number of regions and grid."""
        return f"ratio={self.ratio}, regions={self.num_regions}, grid={tuple(self.regions.shape)}"


def _whole(labels: Tensor) -> Int64[Tensor, "..."]:
    """Labels in the one type that PyTorch can do everything with: not so the unsigned ones of many atlases."""
    labels = labels.as_subclass(Tensor)
    if labels.is_floating_point() and not torch.equal(labels, labels.round()):
        raise ValueError(f"labels of type {labels.dtype} must be whole numbers: each names a region")
    return labels.to(torch.int64)


def _numbered(labels: Int[Tensor, "h w d"]) -> tuple[Int[Tensor, "h w d"], int]:
    """Regions numbered from 1 in the order of their labels, 0 for none; and how many there are."""
    values = labels.unique()
    values = values[values != 0]
    return torch.where(labels == 0, 0, torch.searchsorted(values, labels.contiguous()) + 1), len(values)


def _commonest(labels: Int[Tensor, "H W D"], patch_size: Sequence[int]) -> Int[Tensor, "h w d"]:
    """The commonest label of each patch but 0, the smallest of those equally common; 0 for patches without any."""
    if len(patch_size) not in (3, 4) or min(patch_size) < 1:
        raise ValueError(f"patch_size {tuple(patch_size)} must have three or four positive entries: h, w, d, t")
    h, w, d = patch_size[:3]
    missing = [-size % patch for size, patch in zip(labels.shape, (h, w, d), strict=True)]
    labels = F.pad(labels, [n for m in reversed(missing) for n in (0, m)])
    grid = [size // patch for size, patch in zip(labels.shape, (h, w, d), strict=True)]
    regions, num_regions = _numbered(labels)
    patches = rearrange(regions, "(gh h) (gw w) (gd d) -> (gh gw gd) (h w d)", h=h, w=w, d=d)
    # what is counted are the pairs of a patch and a region that there are: a table of all would be large
    size = num_regions + 1
    pairs, counts = (patches + size * torch.arange(len(patches), device=labels.device)[:, None]).unique(
        return_counts=True
    )
    patch, region = pairs // size, pairs % size
    # by count, then by the smaller region; patches of 0 only stay 0
    score = torch.where(region == 0, 0, counts * size + num_regions - region)
    best = score.new_zeros(len(patches)).scatter_reduce_(0, patch, score, "amax")
    chosen = torch.where(best == 0, 0, num_regions - best % size)
    found = labels.unique()
    values = torch.cat([found.new_zeros(1), found[found != 0]])
    return values[chosen].view(grid)
