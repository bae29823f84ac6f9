"""The models that have a name."""

from typing import Any

from nstorm.nets.neurostorm import NeuroSTORM
from nstorm.nets.registry import register_model
from nstorm.nets.swift import SwiFT


@register_model
def neurostorm_base(**kwargs: Any) -> NeuroSTORM:
    """Make the published NeuroSTORM: clips of 96 x 96 x 96 x 20, 5,173,020 parameters without a head."""
    return NeuroSTORM(**kwargs)


@register_model
def swift_base(**kwargs: Any) -> SwiFT:
    """Make SwiFT as published beside NeuroSTORM: 4,314,636 parameters without a head."""
    return SwiFT(**kwargs)
