"""How often a change is tried again, and what its caller is told then."""

from __future__ import annotations

from whistlestop.common.errors import Code, ServiceError

MAX_CONFLICTS = 20


def too_busy(workflow_id: str) -> ServiceError:
    """Return the error for a workflow that others changed at every attempt."""
    return ServiceError(Code.UNAVAILABLE, f"workflow {workflow_id} is too busy; try again")
