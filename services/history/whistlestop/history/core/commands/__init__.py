"""The commands of workers: their checks, their errors, and who handles which."""
