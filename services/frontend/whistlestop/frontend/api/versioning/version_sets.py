"""UpdateWorkerBuildIdCompatibility and GetWorkerBuildIdCompatibility: compatible sets of build ids.

This is the oldest kind of worker versioning, off unless `frontend.workerVersioningDataAPIs` is set. The sets of a
queue are ordered by when they became its default, and the build ids of a set likewise: the last one is the default. A
change that is already in effect is no error. Each change is a compare-and-set of the namespace's row, after which
waiting tasks are rerouted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1.task_queue_pb2 import (
    TASK_QUEUE_TYPE_ACTIVITY,
    TASK_QUEUE_TYPE_NEXUS,
    TASK_QUEUE_TYPE_WORKFLOW,
)
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.errors import Code, ServiceError, failed_precondition, invalid_argument, not_found
from whistlestop.common.proto.deployment_pb2 import RerouteTasksRequest
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.common.versioning.build_ids import find_build, set_id_of
from whistlestop.common.versioning.deployments import versioning_data
from whistlestop.frontend.api import checks
from whistlestop.frontend.api.deployments.deployments import reroute_tasks, store_of
from whistlestop.frontend.api.rules import handles, validates

if TYPE_CHECKING:
    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments, VersioningData
    from whistlestop.frontend.api.rules import Rules
    from whistlestop.frontend.config import FrontendConfig
    from whistlestop.frontend.ports import FrontendPorts
    from whistlestop.storage.namespaces import Namespace

SETS_OFF = "Worker versioning v0.1 (Version Set-based, deprecated) is disabled on this namespace."
RULES_OFF = "Worker versioning v0.2 (Rules-based, deprecated) is disabled on this namespace."

_Update = rr.UpdateWorkerBuildIdCompatibilityRequest


def switched_off(message: str) -> ServiceError:
    """Return the error for an API that is not enabled by dynamic configuration."""
    return ServiceError(Code.PERMISSION_DENIED, message, details_pb.PermissionDeniedFailure())


@validates(WorkflowService.UpdateWorkerBuildIdCompatibility)
def check_update(request: _Update, namespace: Namespace | None, rules: Rules) -> None:
    """Check the request, reporting everything that is missing or too long in one message.

    Raise INVALID_ARGUMENT or PERMISSION_DENIED.
    """
    if not rules.config.worker_versioning_data_apis:
        raise switched_off(SETS_OFF)
    faults = [] if request.task_queue else ["`task_queue` to be set"]
    operation = request.WhichOneof("operation")
    if operation is None:
        faults.append("an operation to be specified")
    elif operation == "add_new_compatible_build_id":
        added = request.add_new_compatible_build_id
        faults += _faults(added.new_build_id, "add_new_compatible_version", rules.config)
        if not added.existing_compatible_build_id:
            faults.append("`existing_compatible_version` to be set")
    elif operation in _OLD_NAMES:
        faults += _faults(getattr(request, operation), _OLD_NAMES[operation], rules.config)
    if faults:
        raise invalid_argument(", ".join(("request to update worker build ID compatability requires: ", *faults)))
    checks.check_queue_name(request.task_queue, rules)
    checks.check_not_internal(request.task_queue)


_OLD_NAMES = {
    "add_new_build_id_in_new_default_set": "add_new_version_id_in_new_default_set",
    "promote_set_by_build_id": "promote_set_by_version_id",
    "promote_build_id_within_set": "promote_version_id_within_set",
}
"""Names of these fields in Temporal's messages."""


def _faults(build_id: str, name: str, config: FrontendConfig) -> list[str]:
    if not build_id:
        return [f"`{name}` to be set"]
    if checks.length(build_id) > config.worker_build_id_size_limit:
        return [f" Worker build IDs to be no larger than {config.worker_build_id_size_limit} characters"]
    return []


@validates(WorkflowService.GetWorkerBuildIdCompatibility)
def check_get(request: rr.GetWorkerBuildIdCompatibilityRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check the queue. Raise INVALID_ARGUMENT or PERMISSION_DENIED."""
    if not rules.config.worker_versioning_data_apis:
        raise switched_off(SETS_OFF)
    if not request.task_queue:
        raise invalid_argument("missing task queue name")
    checks.check_queue_name(request.task_queue, rules)


@handles(WorkflowService.UpdateWorkerBuildIdCompatibility)
async def update_compatibility(
    frontend: FrontendPorts, request: _Update, context: CallContext
) -> rr.UpdateWorkerBuildIdCompatibilityResponse:
    """Change the sets of a queue. Raise INVALID_ARGUMENT, NOT_FOUND, or FAILED_PRECONDITION at a limit."""
    now_ns = frontend.clock.now_ns()

    def change(known: NamespaceDeployments) -> None:
        data = known.versioning[request.task_queue]
        before = _builds(data)
        data.clock_ns = max(now_ns, data.clock_ns + 1)
        apply_update(data, request)
        _check_limits(known, data, _builds(data) - before, frontend.config.of(context.namespace))

    await store_of(frontend).change(context.namespace_id, change)
    await reroute(frontend, request.task_queue, context)
    return rr.UpdateWorkerBuildIdCompatibilityResponse()


@handles(WorkflowService.GetWorkerBuildIdCompatibility)
async def get_compatibility(
    frontend: FrontendPorts, request: rr.GetWorkerBuildIdCompatibilityRequest, context: CallContext
) -> rr.GetWorkerBuildIdCompatibilityResponse:
    """Return the sets of a queue, or only the last `max_sets`; none for an unknown queue. Raise StorageError."""
    data = versioning_data(await store_of(frontend).read(context.namespace_id), request.task_queue)
    reply = rr.GetWorkerBuildIdCompatibilityResponse()
    for each in data.sets[-request.max_sets :] if request.max_sets > 0 else data.sets:
        reply.major_version_sets.add(build_ids=[build.id for build in each.build_ids])
    return reply


async def reroute(frontend: FrontendPorts, task_queue: str, context: CallContext) -> None:
    """Move waiting tasks that belong to another build id now. Raise ServiceError."""
    kinds = (TASK_QUEUE_TYPE_WORKFLOW, TASK_QUEUE_TYPE_ACTIVITY, TASK_QUEUE_TYPE_NEXUS)
    queues = [RerouteTasksRequest.Queue(name=task_queue, task_type=kind) for kind in kinds]
    await reroute_tasks(frontend, RerouteTasksRequest(queues=queues), context)


def _builds(data: VersioningData) -> set[str]:
    return {build.id for each in data.sets for build in each.build_ids}


def _check_limits(known: NamespaceDeployments, data: VersioningData, added: set[str], config: FrontendConfig) -> None:
    sets, builds = len(data.sets), sum(len(each.build_ids) for each in data.sets)
    for what, count, most in (
        ("compatible version sets", sets, config.version_sets_per_queue),
        ("build IDs", builds, config.build_ids_per_queue),
    ):
        if 0 < most < count:
            raise failed_precondition(
                f"update would exceed number of {what} permitted in namespace dynamic config ({count}/{most})"
            )
    most = config.task_queues_per_build_id
    for build_id in added:
        if 0 < most < sum(find_build(each, build_id) != (-1, -1) for each in known.versioning.values()):
            raise failed_precondition(f"Exceeded max task queues allowed to be mapped to a single build ID: {most}")


# ---- the operations -------------------------------------------------------------------------------------------------


def apply_update(data: VersioningData, request: _Update) -> None:
    """Change `data` as requested, at the time of its clock. Raises INVALID_ARGUMENT and NOT_FOUND."""
    operation = request.WhichOneof("operation")
    if operation == "add_new_build_id_in_new_default_set":
        _add_default(data, request.add_new_build_id_in_new_default_set)
    elif operation == "add_new_compatible_build_id":
        _add_compatible(data, request.add_new_compatible_build_id)
    elif operation == "promote_set_by_build_id":
        set_index, _ = _find(data, request.promote_set_by_build_id)
        if set_index != len(data.sets) - 1:
            _make_default_set(data, set_index)
    elif operation == "promote_build_id_within_set":
        set_index, index = _find(data, request.promote_build_id_within_set)
        if index != len(data.sets[set_index].build_ids) - 1:
            _make_default_in_set(data, set_index, index)
    else:
        _merge(data, request.merge_sets)


def _find(data: VersioningData, build_id: str, role: str = "") -> tuple[int, int]:
    found = find_build(data, build_id)
    if found == (-1, -1):
        raise not_found(f"targeted {role}version {build_id} not found")
    return found


def _add_default(data: VersioningData, build_id: str) -> None:
    set_index, _ = find_build(data, build_id)
    if set_index >= 0:
        if set_index == len(data.sets) - 1 and len(data.sets[set_index].build_ids) == 1:
            return
        raise invalid_argument(f"version {build_id} already exists")
    new = data.sets.add(set_ids=[set_id_of(build_id)], became_default_ns=data.clock_ns)
    new.build_ids.add(id=build_id, became_default_ns=data.clock_ns)


def _add_compatible(data: VersioningData, asked: _Update.AddNewCompatibleVersion) -> None:
    build_id, existing, last = asked.new_build_id, asked.existing_compatible_build_id, len(data.sets) - 1
    compatible, _ = find_build(data, existing)
    if compatible < 0:
        raise not_found(f"targeted compatible_version {existing} not found")
    set_index, index = find_build(data, build_id)
    if set_index >= 0 and set_index != compatible:
        raise invalid_argument(
            f"{build_id} requested to be made compatible with {existing} but both versions exist and are incompatible"
        )
    if set_index >= 0:
        if asked.make_set_default and set_index != last:
            raise invalid_argument(f"version {build_id} already exists and is not default for queue")
        if index != len(data.sets[set_index].build_ids) - 1:
            raise invalid_argument(f"version {build_id} already exists and is not default in set")
        return
    data.sets[compatible].build_ids.add(id=build_id, became_default_ns=data.clock_ns)
    if asked.make_set_default:
        _make_default_set(data, compatible)


def _make_default_set(data: VersioningData, set_index: int) -> None:
    promoted = type(data.sets[0])()
    promoted.CopyFrom(data.sets[set_index])
    promoted.became_default_ns = data.clock_ns
    del data.sets[set_index]
    data.sets.append(promoted)


def _make_default_in_set(data: VersioningData, set_index: int, index: int) -> None:
    builds = data.sets[set_index].build_ids
    build_id = builds[index].id
    del builds[index]
    builds.add(id=build_id, became_default_ns=data.clock_ns)


def _merge(data: VersioningData, asked: _Update.MergeSets) -> None:
    """Merge two sets; the default of the primary set becomes that of the merged set."""
    primary_index, _ = _find(data, asked.primary_set_build_id, "primary ")
    secondary_index, _ = _find(data, asked.secondary_set_build_id, "secondary ")
    if primary_index == secondary_index:
        return
    primary, secondary = data.sets[primary_index], data.sets[secondary_index]
    primary.build_ids[-1].became_default_ns = data.clock_ns
    merged = type(primary)(
        set_ids=sorted({*primary.set_ids, *secondary.set_ids}),
        became_default_ns=max(primary.became_default_ns, secondary.became_default_ns),
        build_ids=sorted((*primary.build_ids, *secondary.build_ids), key=lambda build: build.became_default_ns),
    )
    sets = [each for index, each in enumerate(data.sets) if index not in (primary_index, secondary_index)]
    ordered = sorted((*sets, merged), key=lambda each: each.became_default_ns)
    kept = type(data)(sets=ordered)
    del data.sets[:]
    data.sets.extend(kept.sets)
