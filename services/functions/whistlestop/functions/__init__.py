"""What the three Lambda functions share: settings, events, the database, metrics, traces, and how a handler runs."""
