"""Files of weights: where they come from, what they hold, how that fits a net."""
