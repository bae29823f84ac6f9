"""NeuroSTORM: a shifted-window Mamba encoder that works directly on 4D fMRI."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nstorm.layers import (
    ClassificationHead,
    MambaMixer,
    PatchEmbed4D,
    PatchMerging4D,
    PositionEmbedding4D,
    ShiftedWindowStage,
)


class NeuroSTORM(nn.Module):
    """Encode clips of 4D fMRI in stages of shifted-window Mamba blocks, and classify them.

    The defaults are the published model: 5,173,020 parameters without a head.

    Args:
        img_size: voxels along h, w, d and the largest number of frames of a clip.
        in_channels: channels of the volume.
        num_classes: logits of the head; 0 for no head, so that the model returns the mean token.
        patch_size: voxels of a patch along h, w, d and frames along t.
        feature_size: channels of a token in the first stage.
        depths: blocks per stage. Between stages the spatial grid halves.
        window_size: tokens of a window along h, w, d, t.
        first_window_size: that of the first stage; `window_size` if None.
        full_last_stage: give the last stage one window over all of space, unshifted.
        channel_multiplier: growth of the channels from stage to stage.
        mlp_ratio: hidden channels of an MLP per channel.
        dropout_rate: dropout in the MLPs and before the head.
        drop_path_rate: probability to skip a residual branch in the last block, growing linearly from 0 in the first.
        mixer: makes the mixer of a block from its number of channels.

    References:
        "Towards a general-purpose foundation model for fMRI analysis" (NeuroSTORM), arXiv:2506.11167.

    Example:
        >>> import torch
        >>> from nstorm.nets import NeuroSTORM
        >>> net = NeuroSTORM((24, 24, 24, 8), feature_size=12, depths=(1, 1), num_classes=2)
        >>> net(torch.randn(1, 1, 24, 24, 24, 6)).shape
        torch.Size([1, 2])
        >>> net.forward_features(torch.randn(1, 1, 24, 24, 24, 6)).shape
        torch.Size([1, 24, 2, 2, 2, 6])
    """

    def __init__(
        self,
        img_size: Sequence[int] = (96, 96, 96, 20),
        in_channels: int = 1,
        num_classes: int = 0,
        patch_size: Sequence[int] = (6, 6, 6, 1),
        feature_size: int = 36,
        depths: Sequence[int] = (2, 2, 6, 2),
        window_size: Sequence[int] = (4, 4, 4, 4),
        first_window_size: Sequence[int] | None = None,
        full_last_stage: bool = True,
        channel_multiplier: int = 2,
        mlp_ratio: float = 4.0,
        dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        mixer: Callable[[int], nn.Module] = MambaMixer,
    ) -> None:
        super().__init__()
        if len(img_size) != 4:
            raise ValueError(f"img_size {tuple(img_size)} must have four entries: h, w, d, t")
        self.dropout_rate = dropout_rate
        self.patch_embed = PatchEmbed4D(in_channels, feature_size, patch_size)
        *space, num_frames = self.patch_embed.grid_size(img_size)
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.stages = nn.ModuleList()
        for index, depth in enumerate(depths):
            dim = feature_size * channel_multiplier**index
            last = index == len(depths) - 1
            window = first_window_size if index == 0 and first_window_size is not None else window_size
            full = last and full_last_stage
            self.stages.append(
                ShiftedWindowStage(
                    dim,
                    depth,
                    mixer,
                    (*space, window[3]) if full else window,
                    shift=not full,
                    mlp_ratio=mlp_ratio,
                    dropout_rate=dropout_rate,
                    drop_path_rate=rates[sum(depths[:index]) :][:depth],
                    position=PositionEmbedding4D(dim, (*space, num_frames)),
                    downsample=None if last else PatchMerging4D(dim, channel_multiplier * dim),
                )
            )
            space = [-(-size // 2) for size in space]
        self.num_features = dim
        self.reset_head(num_classes)

    def reset_head(self, num_classes: int) -> None:
        """Replace the head by a new one with `num_classes` logits, or by none where it is 0."""
        self.num_classes = num_classes
        self.head: nn.Module = nn.Identity()
        if num_classes:
            reference = self.patch_embed.proj.weight
            self.head = ClassificationHead(
                self.num_features,
                num_classes,
                self.dropout_rate,
                device=reference.device,
                dtype=reference.dtype,
            )

    def forward_features(self, x: Float[Tensor, "b c_in h w d t"]) -> Float[Tensor, "b c gh gw gd gt"]:
        """Map clips (B, C_in, H, W, D, T) to the last stage's tokens (B, C, H', W', D', T')."""
        x = self.patch_embed(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_head(self, features: Float[Tensor, "b c gh gw gd gt"]) -> Float[Tensor, "b k"]:
        """Map the last stage's tokens to logits (B, num_classes), or to their mean (B, C) without a head."""
        if self.num_classes == 0:
            return features.flatten(2).mean(-1)
        return self.head(features)

    def forward(self, x: Float[Tensor, "b c_in h w d t"]) -> Float[Tensor, "b k"]:
        """Map clips (B, C_in, H, W, D, T) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))
