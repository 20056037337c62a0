"""Deployment on AWS: bundles of the functions, their stack, and what it costs."""
