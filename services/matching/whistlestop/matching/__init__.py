"""Matching: task queues, their polls, backlogs, rate limits, sticky queues, and the workers that poll them."""
