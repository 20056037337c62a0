"""Versions in requests of workers and clients, and the older sets and rules of build ids."""
