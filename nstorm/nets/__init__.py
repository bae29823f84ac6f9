"""Whole models, a registry of named ones, and published weights."""

from nstorm.nets.neurostorm import NeuroSTORM
from nstorm.nets.presets import neurostorm_base, swift_base
from nstorm.nets.published import from_published
from nstorm.nets.registry import create_model, list_models, register_model
from nstorm.nets.shifted_window_net import ShiftedWindowNet
from nstorm.nets.swift import SwiFT

__all__ = [
    "NeuroSTORM",
    "ShiftedWindowNet",
    "SwiFT",
    "create_model",
    "from_published",
    "list_models",
    "neurostorm_base",
    "register_model",
    "swift_base",
]
