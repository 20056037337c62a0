"""Headers of Nexus requests that are not the users' to set or to see, as Temporal configures them by default."""

from __future__ import annotations

DISALLOWED_HEADERS = (
    "request-timeout", "xdc-redirection-api", "xdc-redirection-source-cell", "xdc-redirection", "caller-name",
    "caller-type", "call-initiation", "temporal-principal-type", "temporal-principal-name",
)  # fmt: skip
"""Headers that an operation may not be given."""
DROPPED_HEADERS = (
    "accept-encoding", "x-forwarded-for", "xdc-redirection", "xdc-redirection-api", "temporal-nexus-failure-support",
)  # fmt: skip
"""Headers of a request over HTTP that handlers do not get; `*` matches anything."""
