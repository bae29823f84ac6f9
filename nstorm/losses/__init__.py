"""Losses, in MONAI's form, that work with any network."""

from nstorm.losses.masked_reconstruction import MaskedReconstructionLoss
from nstorm.losses.patches import spread_tokens

__all__ = ["MaskedReconstructionLoss", "spread_tokens"]
