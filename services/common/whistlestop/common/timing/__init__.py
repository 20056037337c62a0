"""When something is done: after a pause, at a deadline, by cron, or no more often than a rate allows."""
