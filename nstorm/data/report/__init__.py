"""What a study looks like, run by run, on one page."""
