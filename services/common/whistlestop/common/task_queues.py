"""Names of task queues that are reserved for the server."""

from __future__ import annotations

RESERVED_PREFIX = "/_sys/"
"""Prefix of the names of partitions."""
RESERVED = f"task queue name cannot start with reserved prefix {RESERVED_PREFIX}"
PER_NAMESPACE_QUEUE = "temporal-sys-per-ns-tq"
"""The queue on which the server works for a namespace, such as on batch operations, with its own permissions."""
_PER_NAMESPACE_PREFIX = "temporal-sys-per-ns-"
_PER_NAMESPACE_CONTROLLER = "temporal-sys-worker-controller-per-ns-tq"


def is_internal(name: str) -> bool:
    """Return whether the queue is one of those on which the server works for a namespace."""
    return name.startswith(_PER_NAMESPACE_PREFIX) or name == _PER_NAMESPACE_CONTROLLER


def internal_fault(name: str, parent: str = "") -> str:
    """Return why a client or worker may not use the queue; empty when it may.

    `parent` is the queue of the workflow that asks for it. The server's own workflows may use any.
    """
    if not is_internal(name) or is_internal(parent):
        return ""
    fault = f"cannot use internal per-namespace task queue:{name}"
    return f"{fault} (in parent component task queue: {parent})" if parent else fault
