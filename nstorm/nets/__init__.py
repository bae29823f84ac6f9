"""Whole models, a registry of named ones, and published weights."""

from nstorm.nets.neurostorm import NeuroSTORM
from nstorm.nets.presets import neurostorm_base
from nstorm.nets.published import from_published
from nstorm.nets.registry import create_model, list_models, register_model

__all__ = ["NeuroSTORM", "create_model", "from_published", "list_models", "neurostorm_base", "register_model"]
