"""A run's own clock, and when it skips time."""
