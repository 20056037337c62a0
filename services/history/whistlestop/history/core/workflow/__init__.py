"""The workflow execution: its own attributes, its cancellation, its end, and its description."""
