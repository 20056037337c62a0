"""CreateWorkflowRule, DescribeWorkflowRule, ListWorkflowRules, DeleteWorkflowRule.

Rules belong to the namespace and are few, so they are stored in its row; history applies them to activities.
`force_scan` is accepted and has no effect, as in Temporal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.rules.v1 import message_pb2 as rules_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import invalid_argument, unimplemented
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api import checks
from whistlestop.frontend.api.namespaces import edit
from whistlestop.frontend.api.rules import handles
from whistlestop.storage.visibility.syntax import conditions_of

if TYPE_CHECKING:
    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.namespace_pb2 import NamespaceData
    from whistlestop.frontend.ports import FrontendPorts

_MAX_CONDITIONS = 100
"""Conditions that are evaluated for each activity attempt in the namespace."""
_MAX_FILTER_LENGTH = 16 * 1024
_NO_ID = "Workflow Rule ID is not set."
_NOT_FOUND = "Workflow Rule with this ID not Found."


@handles(WorkflowService.CreateWorkflowRule)
async def create_workflow_rule(
    frontend: FrontendPorts, request: service_pb.CreateWorkflowRuleRequest, context: CallContext
) -> service_pb.CreateWorkflowRuleResponse:
    """Create a rule. Raise INVALID_ARGUMENT, or UNIMPLEMENTED when rules are not enabled.

    Whether its filters are valid is only found out when they are used.
    """
    _check_enabled(frontend, context, "CreateWorkflowRule")
    if not request.HasField("spec"):
        raise invalid_argument("Rule Specification is not set.")
    if not request.spec.id:
        raise invalid_argument(_NO_ID)
    if checks.length(request.spec.id) > frontend.config.of(context.namespace).max_id_length:
        raise invalid_argument("Workflow Rule Id length exceeds limit.")
    for text in (request.spec.visibility_query, request.spec.activity_start.predicate):
        if len(text) > _MAX_FILTER_LENGTH:
            # It is parsed whenever an activity attempt of the namespace begins in another process.
            raise invalid_argument(f"Workflow Rule filter length exceeds limit of {_MAX_FILTER_LENGTH}.")
        if conditions_of(text) > _MAX_CONDITIONS:
            raise invalid_argument(f"Workflow Rule filter exceeds limit of {_MAX_CONDITIONS} conditions.")
    rule = rules_pb.WorkflowRule(
        spec=request.spec, created_by_identity=request.identity, description=request.description
    )
    rule.create_time.FromNanoseconds(frontend.clock.now_ns())

    def add(data: NamespaceData) -> None:
        rules, most = data.workflow_rules, frontend.config.of(context.namespace).max_workflow_rules
        if len(rules) >= most:
            _drop_first_to_expire(data)
        if len(rules) >= most:
            raise invalid_argument(f"Workflow Rule limit exceeded. Max: {most}")
        if rule.spec.id in rules:
            raise invalid_argument("Workflow Rule with this ID already exists.")
        rules[rule.spec.id].CopyFrom(rule)

    await edit(frontend, request.namespace, add)
    return service_pb.CreateWorkflowRuleResponse(rule=rule)


def _drop_first_to_expire(data: NamespaceData) -> None:
    expiring = [rule for rule in data.workflow_rules.values() if rule.spec.HasField("expiration_time")]
    if expiring:
        del data.workflow_rules[min(expiring, key=_expiry).spec.id]


def _expiry(rule: rules_pb.WorkflowRule) -> tuple[int, int]:
    """Return the expiration time as sent, which may be out of range."""
    return rule.spec.expiration_time.seconds, rule.spec.expiration_time.nanos


@handles(WorkflowService.DescribeWorkflowRule)
async def describe_workflow_rule(
    frontend: FrontendPorts, request: service_pb.DescribeWorkflowRuleRequest, context: CallContext
) -> service_pb.DescribeWorkflowRuleResponse:
    """Return a rule. Raise INVALID_ARGUMENT, also for an unknown id, or UNIMPLEMENTED when rules are not enabled."""
    _check_enabled(frontend, context, "DescribeWorkflowRule")
    if not request.rule_id:
        raise invalid_argument(_NO_ID)
    rules = await _rules(frontend, context)
    if request.rule_id not in rules:
        raise invalid_argument(_NOT_FOUND)
    return service_pb.DescribeWorkflowRuleResponse(rule=rules[request.rule_id])


@handles(WorkflowService.DeleteWorkflowRule)
async def delete_workflow_rule(
    frontend: FrontendPorts, request: service_pb.DeleteWorkflowRuleRequest, context: CallContext
) -> service_pb.DeleteWorkflowRuleResponse:
    """Delete a rule. Raise INVALID_ARGUMENT, or UNIMPLEMENTED when rules are not enabled.

    Activities that it has paused stay paused.
    """
    _check_enabled(frontend, context, "DeleteWorkflowRule")
    if not request.rule_id:
        raise invalid_argument(_NO_ID)

    def remove(data: NamespaceData) -> None:
        if request.rule_id not in data.workflow_rules:
            raise invalid_argument(_NOT_FOUND)
        del data.workflow_rules[request.rule_id]

    await edit(frontend, request.namespace, remove)
    return service_pb.DeleteWorkflowRuleResponse()


@handles(WorkflowService.ListWorkflowRules)
async def list_workflow_rules(
    frontend: FrontendPorts, request: service_pb.ListWorkflowRulesRequest, context: CallContext
) -> service_pb.ListWorkflowRulesResponse:
    """Return all rules on one page. Raise UNIMPLEMENTED when rules are not enabled."""
    _check_enabled(frontend, context, "ListWorkflowRules")
    rules = await _rules(frontend, context)
    return service_pb.ListWorkflowRulesResponse(rules=rules.values())


async def _rules(frontend: FrontendPorts, context: CallContext) -> dict[str, rules_pb.WorkflowRule]:
    namespace = await frontend.namespaces.refresh(context.namespace_id)
    return {} if namespace is None else {rule.spec.id: rule for rule in namespace.workflow_rules}


def _check_enabled(frontend: FrontendPorts, context: CallContext, method: str) -> None:
    if not frontend.config.of(context.namespace).workflow_rules_enabled:
        raise unimplemented(f"method {method} not supported")
