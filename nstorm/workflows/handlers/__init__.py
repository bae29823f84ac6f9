"""What is attached to a trainer, each piece alone."""
