"""The runs of a whole study, found and checked before any work."""
