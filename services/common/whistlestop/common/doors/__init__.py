"""Code shared by all transports: settings, events, status messages."""
