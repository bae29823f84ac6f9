"""Going on with a training that was ended, as though it had not been."""
