"""When a version of a worker deployment is DRAINING and when it is DRAINED.

Rules of this file, which are Temporal's:
- A version that gets no new work any more is DRAINING, whether or not a workflow is pinned to it.
- It is looked for open pinned workflows when the grace period is over, and again after each refresh interval. The first
  look that finds none makes it DRAINED.
- A version that is DRAINED or INACTIVE is DRAINING again as soon as a workflow is pinned to it.
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
    """Note that the version drains from now on."""
    info.status = _DRAINING
    info.drainage_info.status = enums.VERSION_DRAINAGE_STATUS_DRAINING
    info.drainage_info.last_changed_time.FromNanoseconds(now_ns)
    info.drainage_info.last_checked_time.FromNanoseconds(now_ns)


def is_due(info: WorkerDeploymentVersionInfo, now_ns: int, grace_ns: int, refresh_ns: int) -> bool:
    """Whether it is time to look for open workflows that are pinned to the version."""
    if info.status != _DRAINING:
        return False
    drainage = info.drainage_info
    wait_ns = grace_ns if drainage.last_checked_time == drainage.last_changed_time else refresh_ns
    return now_ns >= drainage.last_checked_time.ToNanoseconds() + wait_ns


def note_look(info: WorkerDeploymentVersionInfo, now_ns: int, *, is_pinned_to: bool) -> None:
    """Note what a look at the open workflows has found."""
    info.drainage_info.last_checked_time.FromNanoseconds(now_ns)
    if not is_pinned_to:
        info.status = _DRAINED
        info.drainage_info.status = enums.VERSION_DRAINAGE_STATUS_DRAINED
        info.drainage_info.last_changed_time.FromNanoseconds(now_ns)


def is_drained(info: WorkerDeploymentVersionInfo) -> bool:
    """Whether no open workflow is pinned to the version any more, as far as it has been looked."""
    return info.status == _DRAINED


def has_ended_service(info: WorkerDeploymentVersionInfo) -> bool:
    """Whether the version gets no new work any more, having had some."""
    return info.status in (_DRAINING, _DRAINED)


def is_idle(info: WorkerDeploymentVersionInfo) -> bool:
    """Whether the version has been thought to have no work, so that a workflow pinned to it changes its status."""
    return info.status in (_INACTIVE, _DRAINED)
