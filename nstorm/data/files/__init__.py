"""Runs and masks on disk: NIfTI files, what their names and sidecars say, and writing that leaves no halves."""
