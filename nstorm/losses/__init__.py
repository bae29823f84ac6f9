"""Losses, in MONAI's form, that work with any network."""

from nstorm.losses.masked_reconstruction import MaskedReconstructionLoss

__all__ = ["MaskedReconstructionLoss"]
