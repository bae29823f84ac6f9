"""Clips of runs, and the events that some are locked to."""
