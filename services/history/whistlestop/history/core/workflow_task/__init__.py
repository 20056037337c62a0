"""Workflow tasks: their lifecycle, and the processing of workers' answers."""
