"""Figures of what the blocks do; matplotlib is imported when a figure is made."""

from nstorm.plots.orders import plot_order
from nstorm.plots.reconstructions import plot_reconstruction
from nstorm.plots.token_masks import plot_token_mask

__all__ = ["plot_order", "plot_reconstruction", "plot_token_mask"]
