"""Who trains and who tests, and proof that nobody does both."""
