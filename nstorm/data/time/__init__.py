"""When frames lie: repetition times, resampling, cleaning and scrubbing."""
