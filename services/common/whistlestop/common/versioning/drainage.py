"""When a version of a worker deployment is DRAINING and when it is DRAINED.

These rules are Temporal's:
- A version that gets no new work any more is DRAINING, whether or not a workflow is pinned to it.
- Open pinned workflows are looked up after the grace period, and again after each refresh interval. The first check
  that finds none makes the version DRAINED.
- A version that is DRAINED or INACTIVE becomes DRAINING again as soon as a workflow is pinned to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import deployment_pb2 as enums

if TYPE_CHECKING:
    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentVersionInfo

_INACTIVE = enums.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE
_DRAINING = enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING
_DRAINED = enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED


def begin(info: WorkerDeploymentVersionInfo, now_ns: int) -> None:
    """Mark the version as draining since `now_ns` (nanoseconds since the Unix epoch)."""
    info.status = _DRAINING
    info.drainage_info.status = enums.VERSION_DRAINAGE_STATUS_DRAINING
    info.drainage_info.last_changed_time.FromNanoseconds(now_ns)
    info.drainage_info.last_checked_time.FromNanoseconds(now_ns)


def needs_check(info: WorkerDeploymentVersionInfo, now_ns: int, grace_ns: int, refresh_ns: int) -> bool:
    """Return whether it is time to check for open workflows that are pinned to the version."""
    if info.status != _DRAINING:
        return False
    drainage = info.drainage_info
    wait_ns = grace_ns if drainage.last_checked_time == drainage.last_changed_time else refresh_ns
    return now_ns >= drainage.last_checked_time.ToNanoseconds() + wait_ns


def note_check(info: WorkerDeploymentVersionInfo, now_ns: int, *, is_pinned_to: bool) -> None:
    """Record a check for open pinned workflows: the version is DRAINED unless `is_pinned_to`."""
    info.drainage_info.last_checked_time.FromNanoseconds(now_ns)
    if not is_pinned_to:
        info.status = _DRAINED
        info.drainage_info.status = enums.VERSION_DRAINAGE_STATUS_DRAINED
        info.drainage_info.last_changed_time.FromNanoseconds(now_ns)


def is_drained(info: WorkerDeploymentVersionInfo) -> bool:
    """Return whether the last check found no open workflow pinned to the version."""
    return info.status == _DRAINED


def has_ended_service(info: WorkerDeploymentVersionInfo) -> bool:
    """Return whether the version got new work once and gets none any more."""
    return info.status in (_DRAINING, _DRAINED)


def is_idle(info: WorkerDeploymentVersionInfo) -> bool:
    """Return whether the version is recorded as having no work, so that pinning a workflow to it changes its status."""
    return info.status in (_INACTIVE, _DRAINED)
