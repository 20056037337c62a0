"""Networking, of which all services use one of each: servers, clients, limits on peers, AWS calls, background tasks."""
