"""Completion callbacks of runs and updates."""
