"""Who calls, and what they may do.

Rules of this package: a call is refused unless something allows it. What a caller is allowed comes from an API key or a
JWT (`keys`, `tokens`), what an RPC asks for from the registry, and `access` compares the two, in one place for all
doors. Secrets are compared by their hashes, kept by their hashes, and never written to a log. A function that has no
JWT configured imports no JWT library.
"""
