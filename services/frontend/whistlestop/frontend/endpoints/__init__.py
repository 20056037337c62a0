"""The HTTP APIs: Connect and Temporal's JSON API, over ASGI and in Lambda events."""
