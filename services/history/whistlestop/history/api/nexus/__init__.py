"""RPCs about Nexus operations and requests."""
