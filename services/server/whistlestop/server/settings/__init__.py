"""Temporal's dynamic configuration in a server: its keys, its file, and changes while the server runs."""
