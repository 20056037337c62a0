"""Worker versioning: the version and the build id of a run, and the queues of its tasks."""
