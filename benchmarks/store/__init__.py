"""nstorm's store beside the published format, both written from the same recordings in the same run."""
