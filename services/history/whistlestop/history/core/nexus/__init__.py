"""Nexus operations, of workflows and standalone."""
