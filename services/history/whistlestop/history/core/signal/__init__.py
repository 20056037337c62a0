"""Signals that a run receives."""
