"""Updates of a run."""
