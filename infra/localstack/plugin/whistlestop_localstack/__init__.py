"""Plugins that let LocalStack run zipped Python functions and schedules on a machine without Docker."""
