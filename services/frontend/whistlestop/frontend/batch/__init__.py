"""Batch operations: what they do to one execution, and the worker that applies them to all."""
