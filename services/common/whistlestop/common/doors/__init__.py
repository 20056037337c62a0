"""Code shared by the three functions: settings, events, the database, metrics and traces."""
