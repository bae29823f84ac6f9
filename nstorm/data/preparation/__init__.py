"""From files of runs to a store."""
