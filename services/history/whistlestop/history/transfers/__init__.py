"""Transfer tasks: their delivery to other executions and to workers."""
