"""Patch embedding of 4D volumes."""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nstorm.layers.sizes import checked_sizes


class PatchEmbed4D(nn.Module):
    """Cut a 4D volume into non-overlapping patches and map each one linearly to a token.

    The values of a patch are ordered (h, w, d, t, channel), as in the published NeuroSTORM. An axis that is no
    multiple of its patch is padded with zeros at the end.

    Args:
        in_channels: channels of the volume.
        embed_dim: channels of a token.
        patch_size: voxels of a patch along h, w, d and frames along t.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ValueError: if `patch_size` has not four positive entries.

    Example:
        >>> import torch
        >>> from nstorm.layers import PatchEmbed4D
        >>> embed = PatchEmbed4D(in_channels=1, embed_dim=36, patch_size=(6, 6, 6, 1))
        >>> embed(torch.randn(2, 1, 24, 30, 24, 7)).shape
        torch.Size([2, 36, 4, 5, 4, 7])
    """

    def __init__(
        self,
        in_channels: int = 1,
        embed_dim: int = 36,
        patch_size: Sequence[int] = (6, 6, 6, 1),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = checked_sizes("patch_size", patch_size)
        features = in_channels * prod(self.patch_size)
        self.proj = nn.Linear(features, embed_dim, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight from a truncated normal of standard deviation 0.02, set the bias to 0."""
        nn.init.trunc_normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def grid_size(self, img_size: Sequence[int]) -> tuple[int, ...]:
        """The grid of tokens (h, w, d, t) that a volume of `img_size` becomes."""
        return tuple(-(-size // patch) for size, patch in zip(img_size, self.patch_size, strict=True))

    def forward(self, x: Float[Tensor, "b c_in h w d t"]) -> Float[Tensor, "b c gh gw gd gt"]:
        """Map (B, C_in, H, W, D, T) to tokens (B, C, H/ph, W/pw, D/pd, T/pt)."""
        missing = [-size % patch for size, patch in zip(x.shape[2:], self.patch_size, strict=True)]
        if any(missing):
            x = F.pad(x, [n for m in reversed(missing) for n in (0, m)])
        h, w, d, t = self.patch_size
        x = rearrange(
            x,
            "b c (gh h) (gw w) (gd d) (gt t) -> b gh gw gd gt (h w d t c)",
            h=h, w=w, d=d, t=t,
        )  # fmt: skip
        return rearrange(self.proj(x), "b gh gw gd gt c -> b c gh gw gd gt")
