"""The chain of runs of a workflow: how a run starts, and what the next one inherits."""
