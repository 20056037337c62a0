"""The metrics of a process, recorded and exposed for Prometheus."""
