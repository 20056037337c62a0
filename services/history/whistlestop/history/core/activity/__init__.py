"""Activities, of workflows and standalone."""
