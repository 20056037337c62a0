"""Coverage-guided fuzzing of what takes bytes from outside. `make long` runs it; see `__main__.py`."""
