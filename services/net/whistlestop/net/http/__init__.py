"""HTTP/1: a client on the event loop, and one for callers that may block."""
