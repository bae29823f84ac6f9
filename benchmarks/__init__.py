"""Benchmarks beside peers, measured in the same run."""
