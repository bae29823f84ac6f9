"""Patch unembedding: 4D tokens back to voxels."""

from collections.abc import Sequence
from math import prod

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nstorm.layers.sizes import checked_sizes


class PatchUnembed4D(nn.Module):
    """Map each token linearly to the voxels and frames of its patch, and put the patches together.

    It goes the way of `PatchEmbed4D` back, with the values of a patch in the same order (h, w, d, t, channel). For
    tokens of a deep stage, of which each stands for several patches along an axis, it is the smallest decoder there is.

    Args:
        dim: channels of a token.
        out_channels: channels of the volume.
        patch_size: voxels along h, w, d and frames along t that a token stands for.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ValueError: if `patch_size` has not four positive entries; in `forward`, if `size` is no size that would be cut
            into so many patches.

    References:
        Xie et al., "SimMIM", arXiv:2111.09886 (a linear layer as decoder).

    Example:
        >>> import torch
        >>> from nstorm.layers import PatchEmbed4D, PatchUnembed4D
        >>> tokens = PatchEmbed4D(1, 36, (6, 6, 6, 2))(torch.randn(2, 1, 24, 29, 24, 7))
        >>> PatchUnembed4D(36, 1, (6, 6, 6, 2))(tokens, size=(24, 29, 24, 7)).shape
        torch.Size([2, 1, 24, 29, 24, 7])
    """

    def __init__(
        self,
        dim: int,
        out_channels: int = 1,
        patch_size: Sequence[int] = (6, 6, 6, 1),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = checked_sizes("patch_size", patch_size)
        self.proj = nn.Linear(dim, out_channels * prod(self.patch_size), device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight from a truncated normal of standard deviation 0.02, set the bias to 0."""
        nn.init.trunc_normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def forward(
        self,
        x: Float[Tensor, "b c gh gw gd gt"],
        size: Sequence[int] | None = None,
        brain_mask: Bool[Tensor, "*b h w d"] | None = None,
    ) -> Float[Tensor, "b c_out h w d t"]:
        """Map tokens (B, C, H', W', D', T') to a volume (B, C_out, H, W, D, T).

        Args:
            x: tokens.
            size: (H, W, D, T) to crop to at the end of each axis; H' times the patch along h, and so on, if None.
            brain_mask: (H, W, D) or (B, H, W, D); voxels outside of it become 0.
        """
        grid = x.shape[2:]
        full = [cells * patch for cells, patch in zip(grid, self.patch_size, strict=True)]
        size = full if size is None else size
        if len(size) != 4:
            raise ValueError(f"size {tuple(size)} must have four entries: h, w, d, t")
        if any(not 0 <= big - small < patch for big, small, patch in zip(full, size, self.patch_size, strict=True)):
            raise ValueError(f"size {tuple(size)} does not become {tuple(grid)} patches of {self.patch_size}")
        x = self.proj(rearrange(x, "b c gh gw gd gt -> b gh gw gd gt c"))
        h, w, d, t = self.patch_size
        x = rearrange(
            x,
            "b gh gw gd gt (h w d t c) -> b c (gh h) (gw w) (gd d) (gt t)",
            h=h, w=w, d=d, t=t,
        )[:, :, : size[0], : size[1], : size[2], : size[3]]  # fmt: skip
        if brain_mask is not None:
            inside = brain_mask.reshape(-1, 1, *brain_mask.shape[-3:], 1).to(x.device)
            x = torch.where(inside, x, 0.0)
        return x
