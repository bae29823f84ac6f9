"""Layers for 4D fMRI that work alone: volumes are (B, C, H, W, D, T), tokens in blocks (B, H, W, D, T, C)."""

from nstorm.layers.bidirectional_mamba import BidirectionalMambaMixer
from nstorm.layers.heads import ClassificationHead, RegressionHead
from nstorm.layers.mamba import MambaMixer, MambaState
from nstorm.layers.patch_embed import PatchEmbed4D
from nstorm.layers.patch_expanding import PatchExpanding4D
from nstorm.layers.patch_merging import PatchMerging4D
from nstorm.layers.position_embedding import PositionEmbedding4D, resize_position_embeddings
from nstorm.layers.shifted_window import ShiftedWindowBlock, ShiftedWindowStage
from nstorm.layers.sincos_position_embedding import SinCosPositionEmbedding4D
from nstorm.layers.time_embedding import TimeEmbedding
from nstorm.layers.window_attention import WindowAttention

__all__ = [
    "BidirectionalMambaMixer",
    "ClassificationHead",
    "MambaMixer",
    "MambaState",
    "PatchEmbed4D",
    "PatchExpanding4D",
    "PatchMerging4D",
    "PositionEmbedding4D",
    "RegressionHead",
    "ShiftedWindowBlock",
    "ShiftedWindowStage",
    "SinCosPositionEmbedding4D",
    "TimeEmbedding",
    "WindowAttention",
    "resize_position_embeddings",
]
