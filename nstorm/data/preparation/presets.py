"""The recipes that have names."""

from collections.abc import Mapping
from types import MappingProxyType

from nstorm.data.preparation.recipe import Recipe

PRESETS: Mapping[str, Recipe] = MappingProxyType(
    {
        "native": Recipe(),
        "4mm": Recipe(grid="mni152", spacing=4.0),
        "published": Recipe(axcodes="LAS", published=True),
    }
)
"""Recipes by their names.

- ``"native"``: every run on its own grid and with its own TR, turned to RAS.
- ``"4mm"``: on the 48 x 56 x 48 voxels of 4 mm of :func:`nstorm.data.mni152_grid`, without aliasing; an eighth of the
  voxels of 2 mm, on which a network trains on a laptop.
- ``"published"``: as the published weights expect it (:func:`nstorm.data.prepare_published`).
"""
