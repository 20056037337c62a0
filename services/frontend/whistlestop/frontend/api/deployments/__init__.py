"""Worker deployments and their versions: routing, and the compute that starts their workers."""
