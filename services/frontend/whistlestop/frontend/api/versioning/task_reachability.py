"""Whether a build id can still get tasks: GetWorkerTaskReachability, and the report of DescribeTaskQueue.

The former is for compatible sets, the latter for rules. Both ask visibility which workflows have been worked on by
which builds (search attribute `BuildIds`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import task_queue_pb2 as enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clients import Encoded, decoded
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import invalid_argument
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.common.versioning.build_ids import find_build, is_fully_ramped
from whistlestop.common.versioning.deployments import versioning_data
from whistlestop.frontend.api import checks
from whistlestop.frontend.api.deployments.deployments import store_of
from whistlestop.frontend.api.rules import handles, validates
from whistlestop.frontend.api.versioning.version_sets import RULES_OFF, switched_off
from whistlestop.frontend.api.versioning.versioning_rules import upstream
from whistlestop.storage.visibility import parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments, VersioningData
    from whistlestop.frontend.api.rules import Rules
    from whistlestop.frontend.ports import FrontendPorts
    from whistlestop.storage.namespaces import Namespace

_NEW, _EXISTING = enums.TASK_REACHABILITY_NEW_WORKFLOWS, enums.TASK_REACHABILITY_EXISTING_WORKFLOWS
_OPEN, _CLOSED = enums.TASK_REACHABILITY_OPEN_WORKFLOWS, enums.TASK_REACHABILITY_CLOSED_WORKFLOWS
_STATUS = {_EXISTING: "", _OPEN: " AND ExecutionStatus = 'Running'", _CLOSED: " AND ExecutionStatus != 'Running'"}


@validates(WorkflowService.GetWorkerTaskReachability)
def check_get(request: rr.GetWorkerTaskReachabilityRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check the number and lengths of build ids, and the queues that an unversioned worker needs.

    Raise INVALID_ARGUMENT or PERMISSION_DENIED.
    """
    if not rules.config.worker_versioning_data_apis:
        raise switched_off(RULES_OFF)
    if not request.build_ids:
        raise invalid_argument("Must query at least one build ID (or empty string for unversioned worker)")
    most = rules.config.reachability_build_ids
    if len(request.build_ids) > most:
        raise invalid_argument(f"Too many build ids queried at once, limit: {most}")
    if any(checks.length(build_id) > rules.config.worker_build_id_size_limit for build_id in request.build_ids):
        raise invalid_argument("Build ID exceeds configured limit.workerBuildIdSize, use a shorter build ID.")
    if "" in request.build_ids and not request.task_queues:
        raise invalid_argument(
            "Cannot get reachability of an unversioned worker without specifying at least one task queue "
            "(empty build ID is interpereted as unversioned)"
        )
    for name in request.task_queues:
        if not name:
            raise invalid_argument("missing task queue name")
        checks.check_queue_name(name, rules)


@handles(WorkflowService.GetWorkerTaskReachability)
async def get_reachability(
    frontend: FrontendPorts, request: rr.GetWorkerTaskReachabilityRequest, context: CallContext
) -> rr.GetWorkerTaskReachabilityResponse:
    """Return the reachability of build ids in sets; without queues in the request, for all queues that have them.

    Raise INVALID_ARGUMENT or StorageError.
    """
    known = await store_of(frontend).read(context.namespace_id)
    wanted = request.reachability or _EXISTING
    reply = rr.GetWorkerTaskReachabilityResponse()
    for build_id in request.build_ids:
        about = reply.build_id_reachability.add(build_id=build_id)
        queues = list(request.task_queues) or _queues_with(known, build_id)
        most = frontend.config.of(context.namespace).reachability_task_queues
        for name in queues[:most]:
            found = await _of_queue(frontend, context, versioning_data(known, name), name, build_id, wanted)
            about.task_queue_reachability.add(task_queue=name, reachability=found)
        for name in queues[most:]:
            about.task_queue_reachability.add(task_queue=name, reachability=[enums.TASK_REACHABILITY_UNSPECIFIED])
    return reply


def _queues_with(known: NamespaceDeployments, build_id: str) -> list[str]:
    return sorted(name for name, data in known.versioning.items() if find_build(data, build_id) != (-1, -1))


async def _of_queue(
    frontend: FrontendPorts,
    context: CallContext,
    data: VersioningData,
    task_queue: str,
    build_id: str,
    wanted: enums.TaskReachability.ValueType,
) -> list[enums.TaskReachability.ValueType]:
    since_s = frontend.config.of(context.namespace).reachability_since_default_s
    since_ns = frontend.clock.now_ns() - int(since_s * SECOND_NS)
    if not build_id:
        is_default = not data.sets
        versioned_ns = min((each.became_default_ns for each in data.sets), default=0)
        gets_new = is_default or versioned_ns > since_ns
        builds = "BuildIds = 'unversioned'"
        if not is_default:
            # Release 0.1.0 wrote the builds of an older run into visibility only when it ended.
            builds = f"({builds} OR (BuildIds IS NULL AND StartTime <= {_time(versioned_ns)}))"
    else:
        set_index, index = find_build(data, build_id)
        if set_index < 0 or index != len(data.sets[set_index].build_ids) - 1:
            return []
        is_default = set_index == len(data.sets) - 1
        gets_new = is_default or data.sets[set_index].became_default_ns > since_ns
        builds = _used(f"versioned:{build.id}" for build in data.sets[set_index].build_ids)
    if is_default and wanted != _CLOSED:
        # Include workflows that no worker has seen yet.
        builds = f"(BuildIds IS NULL OR {builds})"
    reachable = [_NEW] if gets_new else []
    if wanted != _NEW:
        if wanted not in _STATUS:
            raise invalid_argument(f"Unsupported reachability type: {wanted}")
        if await _exists(frontend, context, f"TaskQueue = {_quoted(task_queue)} AND {builds}{_STATUS[wanted]}"):
            reachable.append(wanted)
    return reachable


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _time(instant_ns: int) -> str:
    return _quoted(datetime.fromtimestamp(instant_ns / SECOND_NS, UTC).isoformat().replace("+00:00", "Z"))


def _used(values: Iterable[str]) -> str:
    return f"BuildIds IN ({', '.join(_quoted(value) for value in values)})"


async def _exists(frontend: FrontendPorts, context: CallContext, query: str) -> bool:
    return await frontend.store.count_visibility(context.namespace_id, parse(query, {})) > 0


# ---- rules ----------------------------------------------------------------------------------------------------------


@handles(WorkflowService.DescribeTaskQueue)
async def describe_task_queue(
    frontend: FrontendPorts, request: rr.DescribeTaskQueueRequest, context: CallContext
) -> rr.DescribeTaskQueueResponse | Encoded:
    """Describe a queue by matching. Raise ServiceError.

    In the enhanced mode it is described by build ids, with their reachability if requested.
    """
    if request.api_mode != enums.DESCRIBE_TASK_QUEUE_MODE_ENHANCED:
        return await frontend.matching.DescribeTaskQueue(request, context)
    data = versioning_data(await store_of(frontend).read(context.namespace_id), request.task_queue.name)
    if not request.HasField("versions"):
        request.versions.build_ids.append(_default_build(data))
    reply = decoded(await frontend.matching.DescribeTaskQueue(request, context), rr.DescribeTaskQueueResponse)
    if request.report_task_reachability:
        for build_id, info in reply.versions_info.items():
            info.task_reachability = await _by_rules(frontend, context, data, request.task_queue.name, build_id)
    described: rr.DescribeTaskQueueResponse = reply
    return described


def _default_build(data: VersioningData) -> str:
    for each in data.assignment_rules:
        if not each.deleted_ns and is_fully_ramped(each.rule):
            return each.rule.target_build_id
    return ""


async def _by_rules(
    frontend: FrontendPorts, context: CallContext, data: VersioningData, task_queue: str, build_id: str
) -> enums.BuildIdTaskReachability.ValueType:
    if any(each.rule.source_build_id == build_id and not each.deleted_ns for each in data.redirect_rules):
        return enums.BUILD_ID_TASK_REACHABILITY_UNREACHABLE
    assigned = _assigned(data)
    if any(each in assigned for each in (build_id, *upstream(data, build_id))):
        return enums.BUILD_ID_TASK_REACHABILITY_REACHABLE
    # A rule that was deleted just now may have routed workflows that visibility does not show yet.
    grace_s = frontend.config.of(context.namespace).reachability_rule_grace_s
    grace_ns = frontend.clock.now_ns() - int(grace_s * SECOND_NS)
    builds = sorted({build_id, *upstream(data, build_id, grace_ns)})
    queue = f"TaskQueue = {_quoted(task_queue)}"
    if await _exists(frontend, context, f"{queue} AND {_on(builds, 'assigned')}{_STATUS[_OPEN]}"):
        return enums.BUILD_ID_TASK_REACHABILITY_REACHABLE
    if await _exists(frontend, context, f"{queue} AND {_on(builds, 'versioned')}{_STATUS[_CLOSED]}"):
        return enums.BUILD_ID_TASK_REACHABILITY_CLOSED_WORKFLOWS_ONLY
    return enums.BUILD_ID_TASK_REACHABILITY_UNREACHABLE


def _assigned(data: VersioningData) -> set[str]:
    """Return the build ids to which new work may go; the empty one stands for unversioned workers."""
    found = set()
    for each in data.assignment_rules:
        if not each.deleted_ns:
            found.add(each.rule.target_build_id)
            if is_fully_ramped(each.rule):
                return found
    return found | {""}


def _on(builds: Iterable[str], prefix: str) -> str:
    known = [f"{prefix}:{build_id}" if build_id else "unversioned" for build_id in builds]
    return f"(BuildIds IS NULL OR {_used(known)})" if "unversioned" in known else _used(known)
