"""What may be in a message: limits on nesting and times, texts that can be stored, JSON, failures, Nexus content."""
