"""Selective scan and windows over 4D grids: needs torch, numpy and numba only."""

from nstorm.scan.interface import selective_scan
from nstorm.scan.windows import WindowLayout

__all__ = ["WindowLayout", "selective_scan"]
