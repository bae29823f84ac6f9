"""Masked autoencoding with any encoder, decoder, mask and loss."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nstorm.layers import MaskToken
from nstorm.losses.patches import patch_grid, spread_tokens
from nstorm.nets.shifted_window_net import checked_brain_mask, pool_mask


class MaskedReconstruction(NamedTuple):
    """What a masked autoencoder makes of a clip.

    Attributes:
        loss: as the autoencoder's loss reduces it.
        prediction: the reconstruction (B, C, H, W, D, T), of visible patches too.
        token_mask: (B, H', W', D', T') True for the tokens that were hidden.
    """

    loss: Float[Tensor, "..."]
    prediction: Float[Tensor, "b c h w d t"]
    token_mask: Bool[Tensor, "b gh gw gd gt"]


class MaskedAutoencoder(nn.Module):
    """Hide part of a clip's tokens, encode all, and learn to fill in what was hidden.

    An encoder with `patch_embed` and `forward_tokens`, as `ShiftedWindowNet` has them, gets a learned token in the
    place of every hidden one, and still encodes all of them (SimMIM). Of any other module, which maps volumes to
    features, the hidden voxels are set to 0, the mean of z-scored data.

    Args:
        encoder: maps clips to features (B, C', H', W', D', T'), by its method `forward_features` if it has one. With a
            brain mask, it is called with `brain_mask` besides.
        decoder: maps features to a volume, called as `decoder(features, size)` with the clip's (H, W, D, T), such as
            `ShiftedWindowDecoder` or `PatchUnembed4D`. With a brain mask, it gets `brain_mask` besides.
        mask: draws the tokens to hide, such as `RandomMask(0.5)`.
        loss: of (prediction, clip, token mask), such as `MaskedReconstructionLoss(patch_size)`. With a brain mask, it
            gets `brain_mask` besides.
        mask_token: puts something in the place of hidden tokens; a `MaskToken` of the embedding's size if None.
        patch_size: voxels along h, w, d and frames along t that the mask hides together. Needed only where the encoder
            has no `patch_embed`.

    Raises:
        ValueError: if a `mask_token` is given for an encoder that cannot take one, or a `patch_size` is missing or
            other than the encoder's; in `forward`, if a mask does not fit the clips.

    `forward_tokens` is called without the encoder's hooks: to compile it, compile the autoencoder.

    References:
        Xie et al., "SimMIM", arXiv:2111.09886; NeuroSTORM, arXiv:2506.11167.

    Example:
        >>> import torch
        >>> from nstorm.layers import PatchUnembed4D, TubeMask
        >>> from nstorm.losses import MaskedReconstructionLoss
        >>> from nstorm.nets import MaskedAutoencoder, NeuroSTORM
        >>> encoder = NeuroSTORM((24, 24, 24, 8), feature_size=12, depths=(1, 1))
        >>> decoder = PatchUnembed4D(24, patch_size=(12, 12, 12, 1))
        >>> mae = MaskedAutoencoder(encoder, decoder, TubeMask(0.6), MaskedReconstructionLoss((6, 6, 6, 1)))
        >>> made = mae(torch.randn(2, 1, 24, 24, 24, 8))
        >>> made.loss.backward()
        >>> made.prediction.shape, mae.encode(torch.randn(2, 1, 24, 24, 24, 8)).shape
        (torch.Size([2, 1, 24, 24, 24, 8]), torch.Size([2, 24, 2, 2, 2, 8]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        mask: nn.Module,
        loss: nn.Module,
        *,
        mask_token: nn.Module | None = None,
        patch_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if hasattr(encoder, "patch_embed") and hasattr(encoder, "forward_tokens"):
            embed: Any = encoder.patch_embed
            own = tuple(embed.patch_size)
            if patch_size is not None and tuple(patch_size) != own:
                raise ValueError(f"patch_size {tuple(patch_size)} differs from the encoder's {own}: leave it out")
            patch_size = own
            if mask_token is None:
                weight = embed.proj.weight
                mask_token = MaskToken(weight.shape[0], device=weight.device, dtype=weight.dtype)
        elif mask_token is not None:
            raise ValueError(
                f"mask_token has no place: {type(encoder).__name__} has no `patch_embed` and `forward_tokens` to put "
                "it between; without it, hidden voxels are set to 0"
            )
        elif patch_size is None:
            raise ValueError(
                f"patch_size is missing: {type(encoder).__name__} has no `patch_embed` that would say it; give the "
                "voxels along h, w, d and frames along t that the mask hides together"
            )
        self.patch_size = tuple(patch_size)
        self.encoder, self.decoder, self.mask, self.loss = encoder, decoder, mask, loss
        self.mask_token = mask_token

    def forward(
        self,
        x: Float[Tensor, "b c h w d t"],
        brain_mask: Bool[Tensor, "*b h w d"] | None = None,
        token_mask: Bool[Tensor, "b gh gw gd gt"] | None = None,
        generator: torch.Generator | None = None,
    ) -> MaskedReconstruction:
        """Hide tokens of clips (B, C, H, W, D, T), reconstruct the clips, and compare.

        Args:
            x: clips.
            brain_mask: (H, W, D) or (B, H, W, D). Tokens outside are not computed, none of them is hidden, and voxels
                outside do not count.
            token_mask: tokens to hide, True for hidden; drawn by `mask` if None.
            generator: to draw with; PyTorch's own if None.
        """
        self._check(x, brain_mask, token_mask)
        if token_mask is None:
            token_mask = self.draw(x, brain_mask, generator)
        inside = {} if brain_mask is None else {"brain_mask": brain_mask}
        features = self._encode(x, token_mask, inside)
        prediction = self.decoder(features, x.shape[2:], **inside)
        return MaskedReconstruction(self.loss(prediction, x, token_mask, **inside), prediction, token_mask)

    def encode(
        self, x: Float[Tensor, "b c h w d t"], brain_mask: Bool[Tensor, "*b h w d"] | None = None
    ) -> Float[Tensor, "b c_out gh gw gd gt"]:
        """Encode clips (B, C, H, W, D, T) with nothing hidden."""
        self._check(x, brain_mask)
        return self._encode(x, None, {} if brain_mask is None else {"brain_mask": brain_mask})

    def draw(
        self,
        x: Float[Tensor, "b c h w d t"],
        brain_mask: Bool[Tensor, "*b h w d"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Bool[Tensor, "b gh gw gd gt"]:
        """Draw the tokens to hide of clips, True for hidden."""
        tokens = None if brain_mask is None else pool_mask(brain_mask, self.patch_size[:3])
        drawn: Tensor = self.mask((len(x), *self._grid(x)), tokens, generator=generator, device=x.device)
        return drawn

    def _check(self, x: Tensor, brain_mask: Tensor | None, token_mask: Tensor | None = None) -> None:
        if brain_mask is not None:
            checked_brain_mask(brain_mask, len(x), x.shape[2:5])
        if token_mask is not None and tuple(token_mask.shape) != (expected := (len(x), *self._grid(x))):
            raise ValueError(f"token_mask has shape {tuple(token_mask.shape)}, expected {expected}")

    def _grid(self, x: Tensor) -> tuple[int, ...]:
        return patch_grid(x.shape[2:], self.patch_size)

    def _encode(self, x: Tensor, token_mask: Tensor | None, inside: dict[str, Any]) -> Tensor:
        encoder: Any = self.encoder
        if self.mask_token is not None and token_mask is not None:
            tokens = self.mask_token(encoder.patch_embed(x), token_mask)
            features: Tensor = encoder.forward_tokens(tokens, **inside)
            return features
        if token_mask is not None:
            x = torch.where(spread_tokens(token_mask[:, None], self.patch_size, x.shape[2:]), 0.0, x)
        encode = getattr(encoder, "forward_features", encoder)
        features = encode(x, **inside)
        return features
