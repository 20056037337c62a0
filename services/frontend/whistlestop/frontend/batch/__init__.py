"""Batch operations: what they do to one execution, and the worker that goes through all of them."""
