"""The HTTP doors: Connect and Temporal's JSON API, over ASGI and in Lambda events."""
