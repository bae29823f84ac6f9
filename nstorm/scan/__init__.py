"""Selective scan, causal convolution, windows and scan orders over n-D grids: needs torch, numpy and numba only."""

from nstorm.scan.backends import use_backend
from nstorm.scan.causal_conv import causal_conv1d
from nstorm.scan.interface import selective_scan
from nstorm.scan.orders import (
    ScanOrder,
    bidirectional,
    cross_scan,
    hilbert_order,
    list_orders,
    raster_order,
    scan_order,
    snake_order,
)
from nstorm.scan.windows import WindowLayout

__all__ = [
    "ScanOrder",
    "WindowLayout",
    "bidirectional",
    "causal_conv1d",
    "cross_scan",
    "hilbert_order",
    "list_orders",
    "raster_order",
    "scan_order",
    "selective_scan",
    "snake_order",
    "use_backend",
]
