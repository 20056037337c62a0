"""Timers of workflows."""
