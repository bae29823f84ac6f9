"""The demo's network and its loss."""

import math
from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nstorm.layers import MambaMixer, PatchEmbed4D, PositionEmbedding4D, ShiftedWindowStage

_MAX_PLACES = 1200


class BlockDecoder(nn.Module):
    """Two shifted-window Mamba blocks and a linear readout that keeps location.

    Patch and window come from the recording. A patch is the smallest cube of 2 or more voxels an edge (1 on an axis
    of one slice) that leaves at most 1,200 places; it spans 3 or 2 frames, whichever pads the clip less. A window
    holds 5 patches an edge in a slice, 3 in a volume, and 3 in time.

    Args:
        image_size: voxels along h, w, d and frames of a clip.
        num_classes: categories.
        dim: channels of a token.

    Example:
        >>> import torch
        >>> net = BlockDecoder((40, 20, 1, 9), num_classes=8)
        >>> net.patch_size, net.window_size
        ((2, 2, 1, 3), (5, 5, 1, 3))
        >>> net(torch.randn(4, 1, 40, 20, 1, 9)).shape
        torch.Size([4, 3, 8])
    """

    def __init__(self, image_size: Sequence[int], num_classes: int, dim: int = 16) -> None:
        super().__init__()
        *space, frames = image_size
        edge = 2
        while math.prod(-(-size // min(edge, size)) for size in space) > _MAX_PLACES:
            edge += 1
        self.patch_size = (*(min(edge, size) for size in space), min((3, 2), key=lambda t: -frames % t))
        self.embed = PatchEmbed4D(1, dim, self.patch_size)
        grid = self.embed.grid_size(image_size)
        reach = 5 if 1 in grid[:3] else 3
        self.window_size = (*(min(reach, size) for size in grid[:3]), 3)
        # tokens of order 1 for z-scored voxels: a smaller start would leave the blocks' residual path nothing to add to
        nn.init.normal_(self.embed.proj.weight, std=math.sqrt(3 / math.prod(self.patch_size)))
        self.stage = ShiftedWindowStage(
            dim,
            2,
            partial(MambaMixer, d_state=4),
            self.window_size,
            mlp_ratio=2.0,
            position=PositionEmbedding4D(dim, grid),
        )
        self.readout = nn.Linear(dim * math.prod(grid[:3]), num_classes)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, x: Float[Tensor, "b 1 h w d t"]) -> Float[Tensor, "b groups k"]:
        """Map clips (B, 1, H, W, D, T) to logits for every group of frames (B, T / patch, K)."""
        tokens = self.stage(self.embed(x))  # (b, c, h, w, d, groups)
        return self.readout(tokens.permute(0, 5, 2, 3, 4, 1).flatten(2))


class FrameCrossEntropy(nn.Module):
    """Cross-entropy of every group of frames with the label of its block."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, input: Float[Tensor, "b groups k"], target: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
        """Average over blocks and groups; each group is judged on its own, so that one block gives several samples."""
        repeated = target.repeat_interleave(input.shape[1])
        return F.cross_entropy(input.flatten(0, 1), repeated, label_smoothing=self.label_smoothing)
