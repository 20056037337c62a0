"""Authentication and authorisation: who calls, and what they may do.

A call is refused unless something allows it. The caller's permissions come from an API key or a JWT (`keys`,
`tokens`), the required permission from the registry, and `access` compares the two in one place for all transports.
Secrets are stored and compared as hashes, and never logged. A function without JWT settings imports no JWT library.
"""
