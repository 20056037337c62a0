"""Peers that mean harm: what they send, and what it costs us."""
