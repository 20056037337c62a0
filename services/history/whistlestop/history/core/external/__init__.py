"""Signals and cancellation requests to other executions, from the sender's side."""
