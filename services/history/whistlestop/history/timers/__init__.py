"""Timer rows: firing them in a process, and wake-ups of the function."""
