"""Code shared by all services: clock, ids, errors, contexts, notifications, messages of our own. No sockets."""
