"""A task queue: its tasks in the order of dispatch, its limits and settings, and its description."""
