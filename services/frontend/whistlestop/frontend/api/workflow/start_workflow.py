"""StartWorkflowExecution, SignalWithStartWorkflowExecution, ExecuteMultiOperation: checks and defaults.

The checks are in Temporal's order, so that the same one of several mistakes is reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1.workflow_pb2 import WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from whistlestop.common.errors import Code, ServiceError, invalid_argument
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.common.timing import cron
from whistlestop.frontend.api import checks
from whistlestop.frontend.api.callbacks import check_callbacks, links_beside_callbacks
from whistlestop.frontend.api.rules import UnknownSearchAttribute, validates
from whistlestop.frontend.api.versioning.worker_deployment import check_override
from whistlestop.frontend.api.workflow import time_skipping
from whistlestop.frontend.api.workflow.update_workflow import check_update
from whistlestop.net.rpc_status import packed

if TYPE_CHECKING:
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.frontend.api.rules import Rules
    from whistlestop.storage.namespaces import Namespace

_FAIL = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_FAIL
_USE_EXISTING = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
_TERMINATE_EXISTING = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
_ALLOW_DUPLICATE = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
_REJECT_DUPLICATE = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
_TERMINATE_IF_RUNNING = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING

_UPDATE_WITH_START_FAILED = "Update-with-Start could not be executed."


@validates(WorkflowService.StartWorkflowExecution)
def check_start(request: service_pb.StartWorkflowExecutionRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check a start, alone or within ExecuteMultiOperation, and fill in defaults. Raise INVALID_ARGUMENT."""
    assert namespace is not None
    _fill_id_policies(request, _FAIL)
    checks.check_workflow_id(request.workflow_id, rules)
    if request.HasField("retry_policy"):
        checks.check_retry_policy(request.retry_policy, rules.config.workflow_retry)
    _check_start_delay(request)
    _check_cron(request.cron_schedule)
    if not request.workflow_type.name:
        raise invalid_argument("WorkflowType is not set on request.")
    if checks.length(request.workflow_type.name) > rules.config.max_id_length:
        raise invalid_argument("WorkflowType length exceeds limit.")
    checks.check_task_queue(request, rules, user_defined=True)
    check_timeouts(request)
    checks.fill_request_id(request, rules)
    _check_id_policies(request)
    options = request.on_conflict_options
    if options.attach_completion_callbacks and not options.attach_request_id:
        raise invalid_argument("attaching request ID is required for attaching completion callbacks")
    checks.check_search_attributes(request.search_attributes, namespace, rules)
    checks.check_priority(request.priority)
    if request.completion_callbacks:
        check_callbacks(request.completion_callbacks, rules)
        links = links_beside_callbacks(request.links, request.completion_callbacks)
        del request.links[:]
        request.links.extend(links)
    if request.links or request.completion_callbacks:
        of_callbacks = (link for callback in request.completion_callbacks for link in callback.links)
        checks.check_links([*request.links, *of_callbacks], rules)
    time_skipping.check_config(request, rules)
    _check_sizes(request, rules)
    if request.HasField("versioning_override"):
        check_override(request.versioning_override, request.task_queue.name)


@validates(WorkflowService.SignalWithStartWorkflowExecution)
def check_signal_with_start(
    request: service_pb.SignalWithStartWorkflowExecutionRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check a signal-with-start. Its messages differ from those of a start, as in Temporal. Raise INVALID_ARGUMENT."""
    assert namespace is not None
    most = rules.config.max_id_length
    _check_cron(request.cron_schedule)
    checks.check_workflow_id(request.workflow_id, rules)
    if not request.signal_name:
        raise invalid_argument("signal not set")
    _check_length("signal name", request.signal_name, most)
    if not request.workflow_type.name:
        raise invalid_argument("workflow type not set")
    _check_length("workflow type name", request.workflow_type.name, most)
    checks.check_task_queue(request, rules, user_defined=True)
    if not request.request_id:
        request.request_id = rules.ids.uuid()
    _check_length("Request ID", request.request_id, most)
    check_timeouts(request)
    if request.HasField("retry_policy"):
        checks.check_retry_policy(request.retry_policy, rules.config.workflow_retry)
    _check_start_delay(request)
    _check_id_policies(request)
    if request.workflow_id_conflict_policy == _FAIL:
        raise invalid_argument(
            "Invalid WorkflowIDConflictPolicy: WORKFLOW_ID_CONFLICT_POLICY_FAIL is not supported for this operation."
        )
    if request.workflow_id_reuse_policy != _TERMINATE_IF_RUNNING:
        # Which is left to history, so that it can tell the request from one that asks for the same in the other way.
        _fill_id_policies(request, _USE_EXISTING)
    checks.check_search_attributes(request.search_attributes, namespace, rules)
    checks.check_priority(request.priority)
    checks.check_links(request.links, rules)
    time_skipping.check_config(request, rules)
    checks.check_blob(request.signal_input, rules)
    _check_sizes(request, rules)
    if request.HasField("versioning_override"):
        check_override(request.versioning_override, request.task_queue.name)


@validates(WorkflowService.ExecuteMultiOperation)
def check_multi_operation(
    request: service_pb.ExecuteMultiOperationRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check that there are exactly a start and an update of one workflow. Raise INVALID_ARGUMENT.

    Errors are reported per operation.
    """
    assert namespace is not None
    kinds = [operation.WhichOneof("operation") for operation in request.operations]
    if kinds != ["start_workflow", "update_workflow"]:
        raise invalid_argument("Operations have to be exactly [Start, Update].")
    start, update = request.operations[0].start_workflow, request.operations[1].update_workflow
    problems = [
        _problem(lambda: _check_start_operation(start, namespace, rules)),
        _problem(lambda: _check_update_operation(update, namespace, rules)),
    ]
    if problems == [None, None] and start.workflow_id != update.workflow_execution.workflow_id:
        problems[1] = invalid_argument("WorkflowId is not consistent with previous operation(s).")
    if problems != [None, None]:
        raise multi_operation_failure(problems)


def multi_operation_failure(problems: list[ServiceError | None]) -> ServiceError:
    """Return the error of the whole request, with a status per operation; operations without a problem are aborted."""
    statuses = []
    code = Code.ABORTED
    for problem in problems:
        if problem is None:
            status = details_pb.MultiOperationExecutionFailure.OperationStatus(
                code=Code.ABORTED,
                message="Operation was aborted.",
                details=[packed(_aborted())],
            )
        else:
            code = problem.code
            status = details_pb.MultiOperationExecutionFailure.OperationStatus(
                code=problem.code, message=problem.message, details=[packed(each) for each in problem.details]
            )
        statuses.append(status)
    return ServiceError(code, _UPDATE_WITH_START_FAILED, details_pb.MultiOperationExecutionFailure(statuses=statuses))


def _aborted() -> Any:
    from temporalio.api.failure.v1.message_pb2 import MultiOperationExecutionAborted

    return MultiOperationExecutionAborted()


def _problem(check: Any) -> ServiceError | None:
    try:
        check()
    except UnknownSearchAttribute:
        raise  # the cached namespace may be out of date: the caller reads it again
    except ServiceError as error:
        return error
    return None


def _check_start_operation(start: Any, namespace: Namespace, rules: Rules) -> None:
    if start.namespace and start.namespace != namespace.name:
        raise invalid_argument("Operation namespace did not match request's namespace.")
    start.namespace = namespace.name
    check_start(start, namespace, rules)
    if start.cron_schedule:
        raise invalid_argument("CronSchedule is not allowed.")
    if start.request_eager_execution:
        raise invalid_argument("RequestEagerExecution is not supported.")
    if start.workflow_start_delay.ToNanoseconds() > 0:
        raise invalid_argument("WorkflowStartDelay is not supported.")


def _check_update_operation(update: Any, namespace: Namespace, rules: Rules) -> None:
    if update.namespace and update.namespace != namespace.name:
        raise invalid_argument("Operation namespace did not match request's namespace.")
    update.namespace = namespace.name
    check_update(update, namespace, rules)
    if update.first_execution_run_id:
        raise invalid_argument("FirstExecutionRunId is not allowed.")
    if update.workflow_execution.run_id:
        raise invalid_argument("RunId is not allowed.")


def _fill_id_policies(request: Any, default: int) -> None:
    if not request.workflow_id_conflict_policy:
        if request.workflow_id_reuse_policy == _TERMINATE_IF_RUNNING:
            # The deprecated way to ask for the same.
            request.workflow_id_conflict_policy = _TERMINATE_EXISTING
            request.workflow_id_reuse_policy = _ALLOW_DUPLICATE
        else:
            request.workflow_id_conflict_policy = default
    if not request.workflow_id_reuse_policy:
        request.workflow_id_reuse_policy = _ALLOW_DUPLICATE


def _check_id_policies(request: Any) -> None:
    conflict, reuse = request.workflow_id_conflict_policy, request.workflow_id_reuse_policy
    if conflict and reuse == _TERMINATE_IF_RUNNING:
        raise invalid_argument(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING cannot be used together "
            "with a WorkflowIDConflictPolicy"
        )
    if conflict == _TERMINATE_EXISTING and reuse == _REJECT_DUPLICATE:
        raise invalid_argument(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE cannot be used together with "
            "WorkflowIdConflictPolicy WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING"
        )


def _check_start_delay(request: Any) -> None:
    if not request.HasField("workflow_start_delay"):
        return
    if request.cron_schedule:
        raise invalid_argument("CronSchedule and WorkflowStartDelay may not be used together.")
    problem = checks.duration_problem(request.workflow_start_delay)
    if problem:
        raise _wrapped("An invalid WorkflowStartDelaySeconds is set on request.", problem)


def check_timeouts(request: Any) -> None:
    """Check the timeouts of any message with options to start a workflow. Raise INVALID_ARGUMENT."""
    for field, name in (
        ("workflow_execution_timeout", "WorkflowExecutionTimeoutSeconds"),
        ("workflow_run_timeout", "WorkflowRunTimeoutSeconds"),
        ("workflow_task_timeout", "WorkflowTaskTimeoutSeconds"),
    ):
        if request.HasField(field):
            problem = checks.duration_problem(getattr(request, field))
            if problem:
                raise _wrapped(f"An invalid {name} is set on request.", problem)


def _wrapped(message: str, cause: str) -> ServiceError:
    return invalid_argument(f"{message} cause: {cause}")


def _check_cron(expression: str) -> None:
    if not expression:
        return
    try:
        cron.parse(expression)
    except ValueError:
        if _only_its_day_is_wrong(expression):
            raise invalid_argument("invalid CronSchedule, no time can be found to satisfy the schedule") from None
        raise invalid_argument("invalid CronSchedule.") from None


def _only_its_day_is_wrong(expression: str) -> bool:
    """Return whether all fields are valid but no date matches, as for February 31."""
    fields = expression.split()
    if len(fields) < 5 or not all(part.isdigit() and 1 <= int(part) <= 31 for part in fields[-3].split(",")):
        return False
    fields[-3] = "*"
    try:
        cron.parse(" ".join(fields))
    except ValueError:
        return False
    return True


def _check_length(what: str, text: str, most: int) -> None:
    if checks.length(text) > most:
        raise invalid_argument(f"{what} exceeds maximum allowed length ({checks.length(text)}/{most})")


def _check_sizes(request: Any, rules: Rules) -> None:
    checks.check_blob(request.input, rules)
    checks.check_memo(request.memo, rules)
