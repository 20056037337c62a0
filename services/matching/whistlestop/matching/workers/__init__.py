"""The workers that send heartbeats: what is known of them, their rows, and the filter of their lists."""
