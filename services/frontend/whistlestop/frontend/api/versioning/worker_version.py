"""The build id and deployment that a worker sends with polls and completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1.task_queue_pb2 import TASK_QUEUE_KIND_STICKY

from whistlestop.common.errors import invalid_argument
from whistlestop.frontend.api import checks
from whistlestop.frontend.api.versioning.version_sets import switched_off
from whistlestop.frontend.api.versioning.worker_deployment import check_deployment_options

if TYPE_CHECKING:
    from temporalio.api.common.v1.message_pb2 import WorkerVersionCapabilities, WorkerVersionStamp
    from temporalio.api.taskqueue.v1.message_pb2 import TaskQueue

    from whistlestop.frontend.api.rules import Rules

_WORKFLOW_OFF = "Worker versioning in workflow progress APIs is disabled on this namespace."


def check_worker_version(
    request: Any, worker: WorkerVersionCapabilities | WorkerVersionStamp, queue: TaskQueue, rules: Rules
) -> None:
    """Check a worker's version. `queue` is the one polled, or the sticky one to be polled.

    Raise INVALID_ARGUMENT or PERMISSION_DENIED.
    """
    if worker.use_versioning and not rules.config.worker_versioning_workflow_apis:
        raise switched_off(_WORKFLOW_OFF)
    named = queue.kind != TASK_QUEUE_KIND_STICKY or queue.normal_name
    if not named and (worker.use_versioning or request.HasField("deployment_options")):
        raise invalid_argument(
            "NormalName must be set on sticky queue when UseVersioning is true or DeploymentOptions are set."
        )
    if worker.use_versioning and not worker.build_id:
        raise invalid_argument("WorkerVersionStamp must be present if UseVersioning is true.")
    if checks.length(worker.build_id) > rules.config.worker_build_id_size_limit:
        raise invalid_argument("Build ID exceeds configured limit.workerBuildIdSize, use a shorter build ID.")
    if request.HasField("deployment_options"):
        check_deployment_options(request.deployment_options, rules)
