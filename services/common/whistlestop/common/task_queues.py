"""Names of task queues that are not for everybody: what of them the server keeps for itself."""

from __future__ import annotations

RESERVED_PREFIX = "/_sys/"
"""Of the names of partitions."""
RESERVED = f"task queue name cannot start with reserved prefix {RESERVED_PREFIX}"
PER_NAMESPACE_QUEUE = "temporal-sys-per-ns-tq"
"""Where the server works on what it does within a namespace, such as batch operations, with rights of its own."""
_PER_NAMESPACE_PREFIX = "temporal-sys-per-ns-"
_PER_NAMESPACE_CONTROLLER = "temporal-sys-worker-controller-per-ns-tq"


def is_internal(name: str) -> bool:
    """Whether the queue is one of those on which the server works within each namespace."""
    return name.startswith(_PER_NAMESPACE_PREFIX) or name == _PER_NAMESPACE_CONTROLLER


def internal_fault(name: str, parent: str = "") -> str:
    """What is wrong with the queue of something that a client or worker wants there; empty: nothing.

    `parent`: the queue of the workflow that wants it. The server's own workflows may have what they want.
    """
    if not is_internal(name) or is_internal(parent):
        return ""
    fault = f"cannot use internal per-namespace task queue:{name}"
    return f"{fault} (in parent component task queue: {parent})" if parent else fault
