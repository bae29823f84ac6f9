"""NeuroSTORM's masked autoencoder."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nstorm.layers import AtlasMask, MambaMixer, MaskToken, WindowMask
from nstorm.losses import MaskedReconstructionLoss
from nstorm.nets.arguments import keeps_arguments
from nstorm.nets.masked_autoencoder import MaskedAutoencoder
from nstorm.nets.neurostorm import NeuroSTORM
from nstorm.nets.shifted_window_decoder import ShiftedWindowDecoder
from nstorm.nets.shifted_window_net import MixerFactory

_ENCODER_ONLY = (
    "first_window_size",
    "full_last_stage",
    "final_norm",
    "interpolate",
    "redundancy_rate",
    "redundancy_variant",
)
KINDS = ("single", "window", "atlas")


class PublishedMaskTokens(nn.Module):
    """The three mask tokens of the published autoencoder, of which one is used and learned.

    Args:
        dim: channels of a token.
        window_size: tokens of a window.
        kind: `"window"`, a vector for each place in a window, for window masks; `"atlas"` for atlas masks; `"single"`
            for all others. The two that are not used do not learn, and are there for the state dict.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ValueError: if the kind is unknown or a size out of range.
    """

    def __init__(
        self,
        dim: int,
        window_size: Sequence[int],
        kind: str,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where: Any = {"device": device, "dtype": dtype}
        self.single, self.window = MaskToken(dim, **where), MaskToken(dim, window_size, **where)
        self.atlas = MaskToken(dim, **where)
        self.use(kind)

    def use(self, kind: str) -> None:
        """Use and learn another of the three."""
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} is unknown; choose one of {list(KINDS)}")
        self.kind = kind
        for name, token in self.named_children():
            token.requires_grad_(name == kind)

    def forward(
        self, tokens: Float[Tensor, "b c h w d t"], hidden: Bool[Tensor, "b h w d t"]
    ) -> Float[Tensor, "b c h w d t"]:
        """Replace hidden tokens (B, C, H, W, D, T)."""
        replaced: Tensor = self.get_submodule(self.kind)(tokens, hidden)
        return replaced


@keeps_arguments
class NeuroSTORMMAE(MaskedAutoencoder):
    """NeuroSTORM with the decoder it was pre-trained with; the defaults are the published 7,712,964 parameters.

    Which of the three mask tokens learns is decided by the mask it is built with. Another mask may take its place
    later, and uses the same token.

    Args:
        img_size: voxels along h, w, d and the largest number of frames of a clip.
        mask: draws the tokens to hide; whole windows with a ratio of 0.5, as published, if None.
        loss: of (prediction, clip, token mask); the mean squared error over hidden tokens, as published, if None.
        mixer: makes the mixer of a block from its number of channels, here one for all stages.
        kwargs: the other arguments of `NeuroSTORM` but for a head; those that the decoder knows are for it too.

    Raises:
        ValueError: if there are several mixers or a head, or an argument is out of range.

    References:
        "Towards a general-purpose foundation model for fMRI analysis" (NeuroSTORM), arXiv:2506.11167.

    Example:
        >>> import torch
        >>> from nstorm.nets import NeuroSTORMMAE
        >>> mae = NeuroSTORMMAE((24, 24, 24, 8), feature_size=12, depths=(1, 1))
        >>> mae(torch.randn(1, 1, 24, 24, 24, 6)).prediction.shape
        torch.Size([1, 1, 24, 24, 24, 6])
    """

    def __init__(
        self,
        img_size: Sequence[int] = (96, 96, 96, 20),
        mask: nn.Module | None = None,
        loss: nn.Module | None = None,
        *,
        mixer: MixerFactory | Sequence[MixerFactory] = MambaMixer,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("num_classes"):
            raise ValueError(f"num_classes is {kwargs['num_classes']}, but an autoencoder has no head: leave it out")
        if not callable(mixer):
            raise ValueError(
                f"mixer has {len(mixer)} entries, but encoder and decoder of an autoencoder share one for all their "
                "stages: pass one that makes a mixer from its number of channels"
            )
        encoder = NeuroSTORM(img_size, mixer=mixer, **kwargs)
        channels = {"out_channels": kwargs["in_channels"]} if "in_channels" in kwargs else {}
        shared = {
            name: value for name, value in kwargs.items() if name not in (*_ENCODER_ONLY, "in_channels", "num_classes")
        }
        decoder = ShiftedWindowDecoder(mixer=mixer, **channels, **shared)
        window = tuple(kwargs.get("window_size", (4, 4, 4, 4)))
        patch = encoder.patch_embed.patch_size
        mask = WindowMask(0.5, window) if mask is None else mask
        kind = "window" if isinstance(mask, WindowMask) else "atlas" if isinstance(mask, AtlasMask) else "single"
        super().__init__(
            encoder,
            decoder,
            mask,
            MaskedReconstructionLoss(patch) if loss is None else loss,
            mask_token=PublishedMaskTokens(encoder.patch_embed.proj.weight.shape[0], window, kind),
        )
