"""Calls between our own services: in process, as Lambda invocations, or by HTTP."""
