"""Layers for 4D fMRI that work alone: volumes are (B, C, H, W, D, T), tokens in blocks (B, H, W, D, T, C)."""

from nstorm.layers.heads import ClassificationHead, RegressionHead
from nstorm.layers.mamba import MambaMixer
from nstorm.layers.patch_embed import PatchEmbed4D
from nstorm.layers.patch_merging import PatchMerging4D
from nstorm.layers.position_embedding import PositionEmbedding4D
from nstorm.layers.shifted_window import ShiftedWindowBlock, ShiftedWindowStage

__all__ = [
    "ClassificationHead",
    "MambaMixer",
    "PatchEmbed4D",
    "PatchMerging4D",
    "PositionEmbedding4D",
    "RegressionHead",
    "ShiftedWindowBlock",
    "ShiftedWindowStage",
]
