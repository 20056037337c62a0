"""Nexus beyond the core: deliveries, HTTP, and external endpoints."""
