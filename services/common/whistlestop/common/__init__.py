"""Code shared by all services: clock, ids, errors, contexts, clients, notifications, and the gRPC server."""
