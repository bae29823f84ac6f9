"""Layers for 4D fMRI that work alone: volumes are (B, C, H, W, D, T), tokens in blocks (B, H, W, D, T, C)."""

from nstorm.layers.atlas_mask import AtlasMask
from nstorm.layers.bidirectional_mamba import BidirectionalMambaMixer
from nstorm.layers.block_mask import BlockMask
from nstorm.layers.frame_mask import FrameMask
from nstorm.layers.heads import ClassificationHead, RegressionHead
from nstorm.layers.mamba import MambaMixer, MambaState
from nstorm.layers.mask_token import MaskToken
from nstorm.layers.patch_embed import PatchEmbed4D
from nstorm.layers.patch_expanding import PatchExpanding4D
from nstorm.layers.patch_merging import PatchMerging4D
from nstorm.layers.patch_unembed import PatchUnembed4D
from nstorm.layers.position_embedding import PositionEmbedding4D, resize_position_embeddings
from nstorm.layers.random_mask import RandomMask
from nstorm.layers.redundancy_dropout import RedundancyDropout
from nstorm.layers.shifted_window import ShiftedWindowBlock, ShiftedWindowStage
from nstorm.layers.sincos_position_embedding import SinCosPositionEmbedding4D
from nstorm.layers.time_embedding import TimeEmbedding
from nstorm.layers.tube_mask import TubeMask
from nstorm.layers.window_attention import WindowAttention
from nstorm.layers.window_mask import WindowMask

__all__ = [
    "AtlasMask",
    "BidirectionalMambaMixer",
    "BlockMask",
    "ClassificationHead",
    "FrameMask",
    "MambaMixer",
    "MambaState",
    "MaskToken",
    "PatchEmbed4D",
    "PatchExpanding4D",
    "PatchMerging4D",
    "PatchUnembed4D",
    "PositionEmbedding4D",
    "RandomMask",
    "RedundancyDropout",
    "RegressionHead",
    "ShiftedWindowBlock",
    "ShiftedWindowStage",
    "SinCosPositionEmbedding4D",
    "TimeEmbedding",
    "TubeMask",
    "WindowAttention",
    "WindowMask",
    "resize_position_embeddings",
]
