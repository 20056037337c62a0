"""UpdateWorkerVersioningRules and GetWorkerVersioningRules: assignment and redirect rules of build ids.

This kind of worker versioning came between compatible sets and worker deployments, and is off unless
`frontend.workerVersioningRuleAPIs` is set. Deleted rules are kept for a while, because workflows may still be routed
by them. A change refers to rules that the client has seen (the conflict token), and is a compare-and-set of the
namespace's row, after which waiting tasks are rerouted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clients import decoded
from whistlestop.common.clock import MILLISECOND_NS, SECOND_NS
from whistlestop.common.errors import Code, ServiceError, failed_precondition, invalid_argument, not_found
from whistlestop.common.proto.deployment_pb2 import VersioningClock, VersioningData
from whistlestop.common.proto.internal_pb2 import HasPollerRequest, HasPollerResponse
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.common.versioning.build_ids import build_queue, find_build, is_fully_ramped
from whistlestop.common.versioning.deployments import versioning_data
from whistlestop.frontend.api import checks
from whistlestop.frontend.api.deployments.deployments import store_of
from whistlestop.frontend.api.rules import handles, validates
from whistlestop.frontend.api.versioning.version_sets import RULES_OFF, reroute, switched_off

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.taskqueue.v1.message_pb2 import BuildIdAssignmentRule

    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.frontend.api.rules import Rules
    from whistlestop.frontend.config import FrontendConfig
    from whistlestop.frontend.ports import FrontendPorts
    from whistlestop.storage.namespaces import Namespace

_Update = rr.UpdateWorkerVersioningRulesRequest
_CLUSTER = 1
_ID_LENGTH = 255
_POLLER_WINDOW_S, _POLLER_WINDOW = 70, "1m10s"
"""How long a worker counts as seen, in seconds and in Temporal's wording."""


@validates(WorkflowService.UpdateWorkerVersioningRules)
def check_update(request: _Update, namespace: Namespace | None, rules: Rules) -> None:
    """Check that rules are enabled, the lengths of build ids, and the queue.

    Raise INVALID_ARGUMENT or PERMISSION_DENIED.
    """
    _check_enabled(rules.config)
    operation = request.WhichOneof("operation")
    asked: Any = getattr(request, operation) if operation is not None else None
    if operation == "commit_build_id":
        _check_length(asked.target_build_id)
    elif operation in ("insert_assignment_rule", "replace_assignment_rule", "replace_compatible_redirect_rule"):
        _check_length(asked.rule.target_build_id)
    elif operation == "add_compatible_redirect_rule":
        _check_length(asked.rule.target_build_id)
        _check_length(asked.rule.source_build_id)
    _check_queue(request.task_queue, rules)
    checks.check_not_internal(request.task_queue)


@validates(WorkflowService.GetWorkerVersioningRules)
def check_get(request: rr.GetWorkerVersioningRulesRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check that rules are enabled and the queue is named. Raise INVALID_ARGUMENT or PERMISSION_DENIED."""
    _check_enabled(rules.config)
    _check_queue(request.task_queue, rules)


def _check_enabled(config: FrontendConfig) -> None:
    if not config.worker_versioning_rule_apis:
        raise switched_off(RULES_OFF)


def _check_length(build_id: str) -> None:
    length = checks.length(build_id)
    if length > _ID_LENGTH:
        raise invalid_argument(f"BuildId must be <= {_ID_LENGTH} characters, was {length}")


def _check_queue(name: str, rules: Rules) -> None:
    if not name:
        raise invalid_argument("missing task queue name")
    checks.check_queue_name(name, rules)


@handles(WorkflowService.UpdateWorkerVersioningRules)
async def update_rules(
    frontend: FrontendPorts, request: _Update, context: CallContext
) -> rr.UpdateWorkerVersioningRulesResponse:
    """Change the rules of a queue. Raise INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS or FAILED_PRECONDITION."""
    now_ns = frontend.clock.now_ns()
    polled = request.WhichOneof("operation") == "commit_build_id" and await _is_polled(frontend, request, context)

    def change(known: NamespaceDeployments) -> rr.GetWorkerVersioningRulesResponse:
        data = known.versioning[request.task_queue]
        token = _token(data)
        if request.conflict_token != token:
            raise failed_precondition(
                f"provided conflict token '{_go_bytes(request.conflict_token)}' "
                f"does not match existing one '{_go_bytes(token)}'"
            )
        data.clock_ns = max(now_ns, data.clock_ns + 1)
        apply_update(data, request, frontend.config.of(context.namespace), polled=polled)
        reply_rules = _rules_of(data)
        _forget(data, data.clock_ns - int(frontend.config.of(context.namespace).deleted_rule_retention_s * SECOND_NS))
        return reply_rules

    reply_rules = await store_of(frontend).change(context.namespace_id, change)
    await reroute(frontend, request.task_queue, context)
    return rr.UpdateWorkerVersioningRulesResponse(
        assignment_rules=reply_rules.assignment_rules,
        compatible_redirect_rules=reply_rules.compatible_redirect_rules,
        conflict_token=reply_rules.conflict_token,
    )


@handles(WorkflowService.GetWorkerVersioningRules)
async def get_rules(
    frontend: FrontendPorts, request: rr.GetWorkerVersioningRulesRequest, context: CallContext
) -> rr.GetWorkerVersioningRulesResponse:
    """Return the rules in force, none for an unknown queue, with the token that a change needs. Raise StorageError."""
    return _rules_of(versioning_data(await store_of(frontend).read(context.namespace_id), request.task_queue))


async def _is_polled(frontend: FrontendPorts, request: _Update, context: CallContext) -> bool:
    """Return whether a worker of the build id to be committed was seen recently."""
    queue = build_queue(request.commit_build_id.target_build_id, request.task_queue)
    asked = HasPollerRequest(task_queue=queue, within_s=_POLLER_WINDOW_S)
    reply = await frontend.matching.HasPoller(asked, context)
    answer = decoded(reply, HasPollerResponse)
    return bool(answer.has_poller)


def _token(data: VersioningData) -> bytes:
    return VersioningClock(wall_clock=data.clock_ns, cluster_id=_CLUSTER).SerializeToString()


def _go_bytes(data: bytes) -> str:
    """Format bytes as Go prints them."""
    return f"[{' '.join(str(byte) for byte in data)}]"


def _rules_of(data: VersioningData) -> rr.GetWorkerVersioningRulesResponse:
    reply = rr.GetWorkerVersioningRulesResponse(conflict_token=_token(data))
    for assignment in _active(data.assignment_rules):
        reply.assignment_rules.add(rule=assignment.rule).create_time.FromNanoseconds(_whole(assignment.created_ns))
    for redirect in _active(data.redirect_rules):
        reply_rules = reply.compatible_redirect_rules.add(rule=redirect.rule)
        reply_rules.create_time.FromNanoseconds(_whole(redirect.created_ns))
    return reply


def _whole(instant_ns: int) -> int:
    return instant_ns // MILLISECOND_NS * MILLISECOND_NS


def _active(rules: Iterable[Any]) -> list[Any]:
    return [each for each in rules if not each.deleted_ns]


def _forget(data: VersioningData, before_ns: int) -> None:
    """Remove rules that were deleted before that time."""
    for rules in (data.assignment_rules, data.redirect_rules):
        for index in reversed(range(len(rules))):
            if 0 < rules[index].deleted_ns <= before_ns:
                del rules[index]


# ---- the operations -------------------------------------------------------------------------------------------------


def apply_update(data: VersioningData, request: _Update, config: FrontendConfig, *, polled: bool) -> None:
    """Change `data` as requested, at the time of its clock. Raises ServiceError.

    `polled`: whether the build id to commit has a worker.
    """
    operation = request.WhichOneof("operation")
    if operation == "insert_assignment_rule":
        _insert_assignment(data, request.insert_assignment_rule, config)
    elif operation == "replace_assignment_rule":
        _replace_assignment(data, request.replace_assignment_rule)
    elif operation == "delete_assignment_rule":
        _delete_assignment(data, request.delete_assignment_rule)
    elif operation == "add_compatible_redirect_rule":
        _add_redirect(data, request.add_compatible_redirect_rule, config)
    elif operation == "replace_compatible_redirect_rule":
        _replace_redirect(data, request.replace_compatible_redirect_rule, config)
    elif operation == "delete_compatible_redirect_rule":
        _active_redirect(data, request.delete_compatible_redirect_rule.source_build_id).deleted_ns = data.clock_ns
    elif operation == "commit_build_id":
        _commit(data, request.commit_build_id, config, polled=polled)


def _checked(data: VersioningData, rule: BuildIdAssignmentRule) -> BuildIdAssignmentRule:
    """Check an assignment rule; one without a ramp takes all new work."""
    if not rule.HasField("percentage_ramp"):
        rule.percentage_ramp.ramp_percentage = 100
    if not 0 <= rule.percentage_ramp.ramp_percentage <= 100:
        raise invalid_argument("ramp percentage must be in range [0, 100]")
    _check_in_no_set(data, rule.target_build_id, "target")
    sources = {each.rule.source_build_id for each in _active(data.redirect_rules)}
    if not is_fully_ramped(rule) and rule.target_build_id in sources:
        raise failed_precondition(
            "update breaks requirement, this build ID cannot be the target of a partially-ramped assignment rule "
            "because it is the source of a redirect rule"
        )
    return rule


def _check_in_no_set(data: VersioningData, build_id: str, role: str) -> None:
    if find_build(data, build_id) != (-1, -1):
        raise failed_precondition(f"update breaks requirement, {role} build ID is already a member of a version set")


def _insert(data: VersioningData, index: int, rule: BuildIdAssignmentRule) -> None:
    """Insert a rule before index `index`, counting deleted rules."""
    kept = VersioningData(assignment_rules=data.assignment_rules[index:])
    del data.assignment_rules[index:]
    data.assignment_rules.add(rule=rule, created_ns=data.clock_ns)
    data.assignment_rules.extend(kept.assignment_rules)


def _place(data: VersioningData, index: int) -> int:
    """Return the index, counting deleted rules, of the active rule number `index`; -1 if there is none."""
    active = [place for place, each in enumerate(data.assignment_rules) if not each.deleted_ns]
    return active[index] if 0 <= index < len(active) else -1


def _found(data: VersioningData, index: int) -> int:
    place = _place(data, index)
    if place < 0:
        count = len(_active(data.assignment_rules))
        raise invalid_argument(f"rule index {index} is out of bounds for assignment rule list of length {count}")
    return place


def _ever_fully_ramped(data: VersioningData) -> bool:
    """Return whether any rule is fully ramped, deleted ones included, as in Temporal."""
    return any(is_fully_ramped(each.rule) for each in data.assignment_rules)


def _check_default(data: VersioningData, *, needed: bool) -> None:
    """Refuse, if `needed`, rules that would send new work to unversioned workers by mistake."""
    if needed and not any(is_fully_ramped(each.rule) for each in _active(data.assignment_rules)):
        raise failed_precondition(
            "at least one fully-ramped assignment rule must exist (use force=true to bypass this requirement and set "
            "the unversioned queue as the default)"
        )


def _check_assignments(data: VersioningData, config: FrontendConfig) -> None:
    count, most = len(_active(data.assignment_rules)), config.assignment_rules_per_queue
    if 0 < most < count:
        raise failed_precondition(f"update exceeds number of assignment rules permitted in namespace ({count}/{most})")


def _insert_assignment(
    data: VersioningData, asked: _Update.InsertBuildIdAssignmentRule, config: FrontendConfig
) -> None:
    if asked.rule_index < 0:
        raise invalid_argument("rule index cannot be negative")
    rule, place = _checked(data, asked.rule), _place(data, asked.rule_index)
    _insert(data, len(data.assignment_rules) if place < 0 else place, rule)
    _check_assignments(data, config)


def _replace_assignment(data: VersioningData, asked: _Update.ReplaceBuildIdAssignmentRule) -> None:
    rule, needed = _checked(data, asked.rule), _ever_fully_ramped(data) and not asked.force
    place = _found(data, asked.rule_index)
    data.assignment_rules[place].deleted_ns = data.clock_ns
    _insert(data, place, rule)
    _check_default(data, needed=needed)


def _delete_assignment(data: VersioningData, asked: _Update.DeleteBuildIdAssignmentRule) -> None:
    needed = _ever_fully_ramped(data) and not asked.force
    data.assignment_rules[_found(data, asked.rule_index)].deleted_ns = data.clock_ns
    _check_default(data, needed=needed)


def _commit(data: VersioningData, asked: _Update.CommitBuildId, config: FrontendConfig, *, polled: bool) -> None:
    target = asked.target_build_id
    if not polled and not asked.force:
        raise failed_precondition(
            f"no versioned poller with build ID '{target}' seen within the last {_POLLER_WINDOW}, "
            "use force=true to commit anyways"
        )
    _check_in_no_set(data, target, "target")
    for each in _active(data.assignment_rules):
        if each.rule.target_build_id == target or is_fully_ramped(each.rule):
            each.deleted_ns = data.clock_ns
    rule = data.assignment_rules.add(created_ns=data.clock_ns).rule
    rule.target_build_id, rule.percentage_ramp.ramp_percentage = target, 100
    _check_assignments(data, config)


def _active_redirect(data: VersioningData, source: str) -> VersioningData.RedirectRule:
    for each in data.redirect_rules:
        if not each.deleted_ns and each.rule.source_build_id == source:
            return each
    raise not_found(f"no redirect rule found with source ID {source}")


def _check_redirect(data: VersioningData, source: str, target: str) -> None:
    if not target:
        raise invalid_argument("the unversioned build ID cannot be the target of a redirect rule")
    _check_in_no_set(data, source, "source")
    _check_in_no_set(data, target, "target")


def _add_redirect(
    data: VersioningData, asked: _Update.AddCompatibleBuildIdRedirectRule, config: FrontendConfig
) -> None:
    source, target = asked.rule.source_build_id, asked.rule.target_build_id
    _check_redirect(data, source, target)
    for each in _active(data.assignment_rules):
        if not is_fully_ramped(each.rule) and each.rule.target_build_id == source:
            raise failed_precondition(
                "redirect rule source build ID cannot be the target of any partially-ramped assignment rule"
            )
    for each in _active(data.redirect_rules):
        if each.rule.source_build_id == source:
            raise ServiceError(
                Code.ALREADY_EXISTS,
                f"source {source} already redirects to target {each.rule.target_build_id}",
            )
    _put_first(data, asked)
    count, most = len(_active(data.redirect_rules)), config.redirect_rules_per_queue
    if 0 < most < count:
        raise failed_precondition(f"update exceeds number of redirect rules permitted in namespace ({count}/{most})")
    _check_graph(data, config)


def _replace_redirect(
    data: VersioningData, asked: _Update.ReplaceCompatibleBuildIdRedirectRule, config: FrontendConfig
) -> None:
    _check_redirect(data, asked.rule.source_build_id, asked.rule.target_build_id)
    _active_redirect(data, asked.rule.source_build_id).deleted_ns = data.clock_ns
    _put_first(data, asked)
    _check_graph(data, config)


def _put_first(
    data: VersioningData,
    asked: _Update.AddCompatibleBuildIdRedirectRule | _Update.ReplaceCompatibleBuildIdRedirectRule,
) -> None:
    kept = VersioningData(redirect_rules=data.redirect_rules)
    del data.redirect_rules[:]
    data.redirect_rules.add(rule=asked.rule, created_ns=data.clock_ns)
    data.redirect_rules.extend(kept.redirect_rules)


def _check_graph(data: VersioningData, config: FrontendConfig) -> None:
    """Check that redirect rules have no cycle, and that not too many build ids lead to one."""
    targets = {each.rule.source_build_id: each.rule.target_build_id for each in _active(data.redirect_rules)}
    for source in targets:
        at = source
        for _ in targets:
            at = targets.get(at, "")
            if not at:
                break
            if at == source:
                raise failed_precondition("update would break acyclic requirement")
    most = config.redirect_upstream_build_ids
    for each in _active(data.redirect_rules):
        count = len(upstream(data, each.rule.target_build_id))
        if count > most:
            raise failed_precondition(
                f"update exceeds number of upstream build ids permitted in namespace ({count}/{most})"
            )


def upstream(data: VersioningData, build_id: str, since_ns: int | None = None) -> set[str]:
    """Return the build ids from which redirect rules lead to this one.

    With `since_ns`, rules that were deleted at that time or later count too. The set is empty when there are none;
    times are nanoseconds since the Unix epoch.
    """
    rules = [
        each.rule
        for each in data.redirect_rules
        if not each.deleted_ns or (since_ns is not None and each.deleted_ns >= since_ns)
    ]
    found, ahead = {build_id}, [build_id]
    while ahead:
        target = ahead.pop()
        for rule in rules:
            if rule.target_build_id == target and rule.source_build_id not in found:
                found.add(rule.source_build_id)
                ahead.append(rule.source_build_id)
    return found - {build_id}
