"""The decoder that goes the way of the shifted-window encoder back to voxels."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nstorm.layers import MambaMixer, PatchExpanding4D, PatchUnembed4D, ShiftedWindowStage
from nstorm.losses.patches import patch_grid
from nstorm.nets.shifted_window_net import token_masks


class ShiftedWindowDecoder(nn.Module):
    """Map the last stage's tokens of a `ShiftedWindowNet` to voxels: the encoder's stages backwards.

    Each stage doubles the spatial grid by `PatchExpanding4D` and runs shifted-window blocks on it; a norm and
    `PatchUnembed4D` follow. There are no position embeddings and no connections to the encoder's stages, as published.
    Arguments are those of the encoder it belongs to, so that `depths` has one entry more than the decoder has stages
    (the last stage's is not used).

    Args:
        out_channels: channels of the volume.
        patch_size: voxels of a patch along h, w, d and frames along t.
        feature_size: channels of a token in the encoder's first stage.
        depths: blocks per stage of the encoder.
        window_size: tokens of a window along h, w, d, t.
        channel_multiplier: growth of the channels from stage to stage of the encoder.
        mlp_ratio: hidden channels of an MLP per channel.
        dropout_rate: dropout in the MLPs.
        drop_path_rate: probability to skip a residual branch in the encoder's last block, growing linearly from its
            first; the decoder's blocks have that of their counterpart.
        mixer: makes the mixer of a block from its number of channels.
        use_checkpoint: compute blocks again in the backward pass instead of keeping what they computed.
        order: of the tokens in a window; see `ShiftedWindowBlock`.
        boundary: `"wrap"`, as published, or `"reset"`; see `ShiftedWindowBlock`.
        layer_scale: initial value of LayerScale's factors; None for none.

    References:
        The decoder of the published NeuroSTORM autoencoder, arXiv:2506.11167; Cao et al., "Swin-Unet",
        arXiv:2105.05537.

    Example:
        >>> import torch
        >>> from nstorm.nets import ShiftedWindowDecoder
        >>> decoder = ShiftedWindowDecoder(feature_size=12, depths=(1, 1, 2))
        >>> decoder(torch.randn(2, 48, 2, 2, 1, 7), size=(48, 48, 20, 7)).shape
        torch.Size([2, 1, 48, 48, 20, 7])
    """

    def __init__(
        self,
        out_channels: int = 1,
        patch_size: Sequence[int] = (6, 6, 6, 1),
        feature_size: int = 36,
        depths: Sequence[int] = (2, 2, 6, 2),
        window_size: Sequence[int] = (4, 4, 4, 4),
        channel_multiplier: int = 2,
        mlp_ratio: float = 4.0,
        dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        mixer: Callable[[int], nn.Module] = MambaMixer,
        use_checkpoint: bool = False,
        order: str | Sequence[str] = "raster",
        boundary: str = "wrap",
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = tuple(patch_size)
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.expands, self.stages = nn.ModuleList(), nn.ModuleList()
        for index in reversed(range(len(depths) - 1)):
            dim = feature_size * channel_multiplier**index
            self.expands.append(PatchExpanding4D(channel_multiplier * dim, dim))
            self.stages.append(
                ShiftedWindowStage(
                    dim,
                    depths[index],
                    mixer,
                    window_size,
                    mlp_ratio=mlp_ratio,
                    dropout_rate=dropout_rate,
                    drop_path_rate=rates[sum(depths[:index]) :][: depths[index]],
                    use_checkpoint=use_checkpoint,
                    order=order,
                    boundary=boundary,
                    layer_scale=layer_scale,
                )
            )
        self.norm = nn.LayerNorm(feature_size)
        self.unembed = PatchUnembed4D(feature_size, out_channels, patch_size)

    def forward(
        self,
        features: Float[Tensor, "b c gh gw gd gt"],
        size: Sequence[int],
        brain_mask: Bool[Tensor, "*b h w d"] | None = None,
    ) -> Float[Tensor, "b c_out h w d t"]:
        """Map the last stage's tokens (B, C, H', W', D', T') to a volume (B, C_out, H, W, D, T).

        Args:
            features: of the encoder.
            size: (H, W, D, T) of the clip that the encoder got.
            brain_mask: (H, W, D) or (B, H, W, D), the encoder's. Tokens without a voxel in it are not computed, and
                voxels outside of it are 0.

        Raises:
            ValueError: if a clip of this size does not become tokens on this grid.
        """
        patches = patch_grid(size, self.patch_size)
        grids = [patches[:3]]
        for _ in self.stages:
            grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2), -(-grids[-1][2] // 2)))
        if tuple(features.shape[2:]) != (*grids[-1], patches[3]):
            raise ValueError(
                f"features are on the grid {tuple(features.shape[2:])}, but a clip of {tuple(size)} becomes "
                f"{(*grids[-1], patches[3])} in {len(grids)} stages with patches of {self.patch_size}"
            )
        masks: Sequence[Tensor | None] = [None] * len(grids)
        if brain_mask is not None:
            masks = token_masks(brain_mask, self.patch_size, len(grids))
        x = features
        for expand, stage, grid, mask in zip(self.expands, self.stages, grids[-2::-1], masks[-2::-1], strict=True):
            x = expand(x.movedim(1, -1), grid).movedim(-1, 1)
            x = stage(x, mask)
        x = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return self.unembed(x, size, brain_mask)
