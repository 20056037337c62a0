"""One transition of a run: its working copy, the events that change its state, and the records of its commit."""
