"""HTTP/1: a server with limits around uvicorn's protocol, and clients, on the event loop and blocking."""
