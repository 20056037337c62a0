"""The same scenarios on the real Temporal dev server and on ours."""
