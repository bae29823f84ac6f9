"""Whole models, a registry of named ones, and published weights."""

from nstorm.nets.masked_autoencoder import MaskedAutoencoder, MaskedReconstruction
from nstorm.nets.neurostorm import NeuroSTORM
from nstorm.nets.neurostorm_mae import NeuroSTORMMAE
from nstorm.nets.presets import neurostorm_base, swift_base
from nstorm.nets.pretrained import load_pretrained, save_pretrained
from nstorm.nets.published import from_published
from nstorm.nets.registry import create_model, list_models, register_model
from nstorm.nets.shifted_window_decoder import ShiftedWindowDecoder
from nstorm.nets.shifted_window_net import ShiftedWindowNet, pool_mask
from nstorm.nets.swift import SwiFT
from nstorm.nets.weights.report import LoadingReport

__all__ = [
    "LoadingReport",
    "MaskedAutoencoder",
    "MaskedReconstruction",
    "NeuroSTORM",
    "NeuroSTORMMAE",
    "ShiftedWindowDecoder",
    "ShiftedWindowNet",
    "SwiFT",
    "create_model",
    "from_published",
    "list_models",
    "load_pretrained",
    "neurostorm_base",
    "pool_mask",
    "register_model",
    "save_pretrained",
    "swift_base",
]
