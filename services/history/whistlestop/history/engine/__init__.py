"""The engine: load, decide, commit."""
