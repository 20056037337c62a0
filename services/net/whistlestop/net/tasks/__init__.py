"""What goes on beside requests: background tasks, loops with back-off, and long computations off the event loop."""
