"""Atlases, time series of their parcels, and connectivity."""
