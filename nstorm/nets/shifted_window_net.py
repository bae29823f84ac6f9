"""The encoder that NeuroSTORM and SwiFT share: stages of shifted windows over 4D fMRI."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nstorm.layers import (
    ClassificationHead,
    MambaMixer,
    PatchEmbed4D,
    PatchMerging4D,
    PositionEmbedding4D,
    RedundancyDropout,
    ShiftedWindowStage,
)
from nstorm.layers.sizes import checked_sizes
from nstorm.nets.arguments import keeps_arguments

MixerFactory = Callable[[int], nn.Module]


@keeps_arguments
class ShiftedWindowNet(nn.Module):
    """Encode clips of 4D fMRI in stages of shifted-window blocks around any mixer, and classify them.

    Args:
        img_size: voxels along h, w, d and the largest number of frames of a clip.
        in_channels: channels of the volume.
        num_classes: logits of the head; 0 for no head, so that the model returns the mean token.
        patch_size: voxels of a patch along h, w, d and frames along t.
        feature_size: channels of a token in the first stage.
        depths: blocks per stage. Between stages the spatial grid halves.
        window_size: tokens of a window along h, w, d, t.
        first_window_size: that of the first stage; `window_size` if None.
        full_last_stage: give the last stage one window over all of space at `img_size`, unshifted.
        channel_multiplier: growth of the channels from stage to stage.
        mlp_ratio: hidden channels of an MLP per channel.
        dropout_rate: dropout in the MLPs and before the head.
        drop_path_rate: probability to skip a residual branch in the last block, growing linearly from 0 in the first.
        mixer: makes the mixer of a block from its number of channels; one for all stages, or one for each.
        final_norm: normalise the last stage's tokens.
        interpolate: let other grids and longer clips in, by interpolating the position embeddings.
        use_checkpoint: compute blocks again in the backward pass instead of keeping what they computed.
        order: of the tokens in a window, one name or several to scan one by one; see `ShiftedWindowBlock`.
        boundary: `"wrap"`, as published, or `"reset"`; see `ShiftedWindowBlock`.
        layer_scale: initial value of LayerScale's factors; None for none.
        redundancy_rate: share of the tokens that `RedundancyDropout` drops in every block in training; 0 for none.
        redundancy_variant: of the dropout; `"published"` has no rate, any above 0 turns it on.

    Example:
        >>> import torch
        >>> from nstorm.nets import ShiftedWindowNet
        >>> net = ShiftedWindowNet((24, 24, 24, 8), feature_size=12, depths=(1, 1), num_classes=2)
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
        mixer: MixerFactory | Sequence[MixerFactory] = MambaMixer,
        final_norm: bool = False,
        interpolate: bool = False,
        use_checkpoint: bool = False,
        order: str | Sequence[str] = "raster",
        boundary: str = "wrap",
        layer_scale: float | None = None,
        redundancy_rate: float = 0.0,
        redundancy_variant: str = "similarity",
    ) -> None:
        super().__init__()
        img_size = checked_sizes("img_size", img_size)
        mixers = [mixer] * len(depths) if callable(mixer) else list(mixer)
        if len(mixers) != len(depths):
            raise ValueError(f"mixer has {len(mixers)} entries, expected one for each of {len(depths)} stages")
        self.dropout_rate = dropout_rate
        self.patch_embed = PatchEmbed4D(in_channels, feature_size, patch_size)
        *space, num_frames = self.patch_embed.grid_size(img_size)
        redundancy = partial(RedundancyDropout, redundancy_rate, redundancy_variant) if redundancy_rate else None
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
                    mixers[index],
                    (*space, window[3]) if full else window,
                    shift=not full,
                    mlp_ratio=mlp_ratio,
                    dropout_rate=dropout_rate,
                    drop_path_rate=rates[sum(depths[:index]) :][:depth],
                    position=PositionEmbedding4D(dim, (*space, num_frames), interpolate),
                    downsample=None if last else PatchMerging4D(dim, channel_multiplier * dim),
                    use_checkpoint=use_checkpoint,
                    order=order,
                    boundary=boundary,
                    layer_scale=layer_scale,
                    redundancy_dropout=redundancy,
                )
            )
            space = [-(-size // 2) for size in space]
        self.num_features = dim
        self.norm = nn.LayerNorm(dim) if final_norm else nn.Identity()
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

    def forward_features(
        self, x: Float[Tensor, "b c_in h w d t"], brain_mask: Bool[Tensor, "*b h w d"] | None = None
    ) -> Float[Tensor, "b c gh gw gd gt"]:
        """Map clips (B, C_in, H, W, D, T) to the last stage's tokens (B, C, H', W', D', T').

        Args:
            x: clips.
            brain_mask: (H, W, D), or (B, H, W, D) with one for each sample. Patches without a voxel in it enter nothing
                and are not computed; their tokens are 0. None computes everything, as published.
        """
        if brain_mask is not None:
            checked_brain_mask(brain_mask, len(x), x.shape[2:5])
        return self.forward_tokens(self.patch_embed(x), brain_mask)

    def forward_tokens(
        self, tokens: Float[Tensor, "b c gh gw gd gt"], brain_mask: Bool[Tensor, "*b h w d"] | None = None
    ) -> Float[Tensor, "b c_out oh ow od gt"]:
        """Map tokens as `patch_embed` makes them to the last stage's; the place to change tokens is in between.

        Args:
            tokens: (B, C, H / ph, W / pw, D / pd, T / pt).
            brain_mask: of voxels, as in `forward_features`.
        """
        masks: Sequence[Tensor | None] = [None] * len(self.stages)
        if brain_mask is not None:
            masks = self.token_masks(brain_mask)
        x = tokens
        for stage, mask in zip(self.stages, masks, strict=True):
            x = stage(x, mask)
        if isinstance(self.norm, nn.LayerNorm):
            x = self.norm(x.movedim(1, -1)).movedim(-1, 1)
            if masks[-1] is not None:
                x = torch.where(_to_tokens(masks[-1]).to(x.device), x, 0.0)
        return x

    def token_masks(self, brain_mask: Bool[Tensor, "*b h w d"]) -> list[Tensor]:
        """Which tokens of each stage hold a voxel of the brain, (h, w, d) or (B, h, w, d) each.

        Raises:
            ValueError: if a mask holds nothing.
        """
        return token_masks(brain_mask, self.patch_embed.patch_size, len(self.stages))

    def forward_head(
        self, features: Float[Tensor, "b c gh gw gd gt"], brain_mask: Bool[Tensor, "*b h w d"] | None = None
    ) -> Float[Tensor, "b k"]:
        """Map the last stage's tokens to logits (B, num_classes), or to their mean (B, C) without a head.

        With a mask, the mean is that of the tokens in the brain.
        """
        if brain_mask is not None:
            # heads average over all tokens, of which those outside are 0
            mask = self.token_masks(checked_brain_mask(brain_mask, len(features), brain_mask.shape[-3:]))[-1]
            share = _to_tokens(mask).to(features).mean((1, 2, 3, 4, 5), keepdim=True)
            features = features / share
        if self.num_classes == 0:
            return features.flatten(2).mean(-1)
        return self.head(features)

    def forward(
        self, x: Float[Tensor, "b c_in h w d t"], brain_mask: Bool[Tensor, "*b h w d"] | None = None
    ) -> Float[Tensor, "b k"]:
        """Map clips (B, C_in, H, W, D, T) to logits (B, num_classes); see `forward_features` for the mask."""
        return self.forward_head(self.forward_features(x, brain_mask), brain_mask)


def checked_brain_mask(brain_mask: Tensor, num_samples: int, size: Sequence[int]) -> Tensor:
    """Give back a mask that fits clips of this number and size, one for all or one for each.

    Raises:
        ValueError: if it does not.
    """
    each = (num_samples, *size)
    if tuple(brain_mask.shape) not in (tuple(size), (1, *size), each):
        raise ValueError(f"brain_mask has shape {tuple(brain_mask.shape)}, expected {tuple(size)} or {each}")
    return brain_mask


def _to_tokens(mask: Bool[Tensor, "*b h w d"]) -> Bool[Tensor, "b 1 h w d 1"]:
    return mask.reshape(-1, 1, *mask.shape[-3:], 1)


def token_masks(brain_mask: Bool[Tensor, "*b h w d"], patch_size: Sequence[int], num_stages: int) -> list[Tensor]:
    """Which tokens of each stage hold a voxel of the brain, where each stage has half the grid of the one before.

    Raises:
        ValueError: if a mask holds nothing.
    """
    if not brain_mask.flatten(-3).any(-1).all():
        raise ValueError("brain_mask is empty: it must be True inside the brain")
    masks = [pool_mask(brain_mask, patch_size[:3])]
    for _ in range(1, num_stages):
        masks.append(pool_mask(masks[-1], (2, 2, 2)))
    return masks


def pool_mask(mask: Bool[Tensor, "*b h w d"], factors: Sequence[int]) -> Bool[Tensor, "*b gh gw gd"]:
    """Which blocks of so many cells along h, w, d hold one of the mask; blocks at the end may be cut off."""
    pooled = F.max_pool3d(mask.float().reshape(-1, 1, *mask.shape[-3:]), tuple(factors), ceil_mode=True)
    return pooled.reshape(*mask.shape[:-3], *pooled.shape[2:]).bool()
