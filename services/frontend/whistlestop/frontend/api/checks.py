"""Checks shared by many RPCs, worded as in Temporal's server. Each raises ServiceError or returns.

Lengths are bytes of UTF-8, as there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1.task_queue_pb2 import TaskQueueKind, TaskQueueType
from temporalio.api.enums.v1.workflow_pb2 import TimeoutType

from whistlestop.common import task_queues
from whistlestop.common.errors import invalid_argument, not_found
from whistlestop.frontend.api.rules import UnknownSearchAttribute
from whistlestop.storage.visibility.attributes import SYSTEM_AND_PREDEFINED, Limits, validate
from whistlestop.storage.visibility.errors import InvalidSearchAttributes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message
    from temporalio.api.common.v1.message_pb2 import (
        Link,
        Memo,
        Priority,
        RetryPolicy,
        SearchAttributes,
        WorkflowExecution,
    )
    from temporalio.api.sdk.v1.user_metadata_pb2 import UserMetadata
    from temporalio.api.taskqueue.v1.message_pb2 import TaskQueue

    from whistlestop.common.retry_defaults import RetryDefaults
    from whistlestop.frontend.api.rules import Rules
    from whistlestop.storage.namespaces import Namespace

BLOB_TOO_LARGE = "Blob data size exceeds limit."

# Looked up once, because access to an enum's member by name is slow.
_UNSPECIFIED_KIND = TaskQueueKind.TASK_QUEUE_KIND_UNSPECIFIED
_NORMAL = TaskQueueKind.TASK_QUEUE_KIND_NORMAL
_STICKY = TaskQueueKind.TASK_QUEUE_KIND_STICKY

_UUID = re.compile(
    r"(urn:uuid:)?[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
    r"|\{[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\}"
    r"|[0-9a-fA-F]{32}"
)
_MAX_INT64 = 2**63 - 1
_HUNDRED_YEARS_S = 100 * 365 * 24 * 3600
_FAIRNESS_KEY_LENGTH = 64
_TIMEOUT_PREFIX = "TemporalTimeout:"


def length(text: str) -> int:
    """Return the length in bytes of the text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


ACTIVITY_PREFIX, OPERATION_PREFIX = "temporal-sys-activity:", "temporal-sys-nexus-operation:"
NO_WORKFLOWS = (ACTIVITY_PREFIX, OPERATION_PREFIX)
SCHEDULE_PREFIX = "temporal-sys-scheduler:"


def check_execution(request: Message, field: str) -> None:
    """Check that the request names a workflow id and, if it names a run, a UUID. Raise INVALID_ARGUMENT."""
    if not request.HasField(field):
        raise invalid_argument("Execution is not set on request.")
    execution: WorkflowExecution = getattr(request, field)
    if not execution.workflow_id:
        raise invalid_argument("WorkflowId is not set on request.")
    check_run_id(execution.run_id)
    check_is_a_workflow(execution.workflow_id, execution.run_id)


def check_is_a_workflow(workflow_id: str, run_id: str) -> None:
    """Refuse the id of a standalone activity or Nexus operation, which is a run but not a workflow."""
    if not workflow_id.startswith(NO_WORKFLOWS):
        return
    if run_id:
        raise not_found(f'workflow execution not found for workflow ID "{workflow_id}" and run ID "{run_id}"')
    raise not_found(f"workflow not found for ID: {workflow_id}")


def check_run_id(run_id: str) -> None:
    """Check that a run id is empty or a UUID. Raise INVALID_ARGUMENT."""
    if not is_run_id(run_id):
        raise invalid_argument("Invalid RunId.")


def is_run_id(run_id: str) -> bool:
    """Return whether a run id is empty (the current run) or a UUID in any of its textual forms."""
    return not run_id or _UUID.fullmatch(run_id) is not None


def check_no_schedule(workflow_id: str) -> None:
    """Refuse the id of a schedule, except in RPCs that describe, terminate or delete a workflow."""
    if workflow_id.startswith(SCHEDULE_PREFIX):
        raise invalid_argument(f"{workflow_id} is a schedule: use the RPCs of schedules.")


def check_workflow_id(workflow_id: str, rules: Rules, *, internal: bool = False) -> None:
    """Check the id of a workflow that may be created. Ids of internal runs are reserved unless `internal`.

    Raise INVALID_ARGUMENT.
    """
    if not workflow_id:
        raise invalid_argument("WorkflowId is not set on request.")
    if length(workflow_id) > rules.config.max_id_length:
        raise invalid_argument(
            f"WorkflowId exceeds maximum allowed length ({length(workflow_id)}/{rules.config.max_id_length})"
        )
    if not internal and workflow_id.startswith((SCHEDULE_PREFIX, *NO_WORKFLOWS)):
        raise invalid_argument(f"WorkflowId cannot start with reserved prefix {workflow_id.partition(':')[0]}:")


def fill_request_id(request: Any, rules: Rules) -> None:
    """Check the request id, or generate one if it is missing, so that the caller's retries are distinct requests.

    Raise INVALID_ARGUMENT.
    """
    if not request.request_id:
        request.request_id = rules.ids.uuid()
    elif length(request.request_id) > rules.config.max_id_length:
        raise invalid_argument("RequestId length exceeds limit.")


def check_identity(identity: str, rules: Rules) -> None:
    """Check the length of a worker's identity. Raise INVALID_ARGUMENT."""
    if length(identity) > rules.config.max_id_length:
        raise invalid_argument("Identity length exceeds limit.")


def duration_problem(duration: Duration) -> str:
    """Return what is wrong with a duration, or an empty string. More than 100 years are cut to that, in place."""
    seconds, nanos = duration.seconds, duration.nanos
    if (seconds > 0 and nanos < 0) or (seconds < 0 and nanos > 0):
        return "duration has seconds and nanos with different signs"
    if seconds < 0 or nanos < 0:
        return "negative duration"
    if seconds >= _HUNDRED_YEARS_S:
        duration.seconds = _HUNDRED_YEARS_S
        duration.nanos = 0
    return ""


def check_retry_policy(policy: RetryPolicy, defaults: RetryDefaults) -> None:
    """Fill a retry policy with defaults and check it. The request must have set the policy. Raise INVALID_ARGUMENT."""
    _fill_retry_policy(policy, defaults)
    if policy.maximum_attempts == 1:
        return  # without retries nothing else matters
    problem = duration_problem(policy.initial_interval)
    if problem:
        raise invalid_argument(f"invalid InitialInterval set on retry policy: {problem}")
    if not policy.backoff_coefficient >= 1:
        raise invalid_argument("BackoffCoefficient cannot be less than 1 on retry policy.")
    problem = duration_problem(policy.maximum_interval)
    if problem:
        raise invalid_argument(f"invalid MaximumInterval set on retry policy: {problem}")
    longest, first = policy.maximum_interval.ToNanoseconds(), policy.initial_interval.ToNanoseconds()
    if 0 < longest < first:
        raise invalid_argument("MaximumInterval cannot be less than InitialInterval on retry policy.")
    if policy.maximum_attempts < 0:
        raise invalid_argument("MaximumAttempts cannot be negative on retry policy.")
    for name in policy.non_retryable_error_types:
        if name.startswith(_TIMEOUT_PREFIX):
            _check_timeout_type(name.removeprefix(_TIMEOUT_PREFIX))


def _fill_retry_policy(policy: RetryPolicy, defaults: RetryDefaults) -> None:
    if policy.maximum_attempts == 0:
        policy.maximum_attempts = defaults.maximum_attempts
    if _is_zero(policy.initial_interval):
        policy.initial_interval.FromNanoseconds(defaults.initial_interval_ns)
    if _is_zero(policy.maximum_interval):
        nanos = policy.initial_interval.seconds * 1_000_000_000 + policy.initial_interval.nanos
        longest = nanos * defaults.maximum_interval_factor
        # The real server reports a product beyond 64 bits as a negative duration.
        policy.maximum_interval.seconds = -1 if longest > _MAX_INT64 else longest // 1_000_000_000
        policy.maximum_interval.nanos = 0 if longest > _MAX_INT64 else longest % 1_000_000_000
    if policy.backoff_coefficient == 0:
        policy.backoff_coefficient = defaults.backoff_coefficient


def _is_zero(duration: Duration) -> bool:
    return duration.seconds == 0 and duration.nanos == 0


def _check_timeout_type(name: str) -> None:
    known = {each.removeprefix("TIMEOUT_TYPE_").title().replace("_", "") for each in TimeoutType.keys()[1:]}
    if name not in known and name not in TimeoutType.keys()[1:]:
        raise invalid_argument(f"Invalid timeout type value: {name}.")


def check_task_queue(request: Message, rules: Rules, *, user_defined: bool = False, partition: bool = False) -> None:
    """Check the name of the request's `task_queue`, and set its kind to normal if it is unspecified.

    With `user_defined`, user code is to run there, so it cannot be an internal queue. With `partition`, it may be a
    partition's name. Raise INVALID_ARGUMENT.
    """
    if not request.HasField("task_queue"):
        raise invalid_argument("taskQueue is not set")
    queue: TaskQueue = request.task_queue  # type: ignore[attr-defined]
    if queue.kind == _UNSPECIFIED_KIND:
        queue.kind = _NORMAL
    if not queue.name:
        raise invalid_argument("missing task queue name")
    check_queue_name(queue.name, rules, partition=partition)
    if queue.kind == _STICKY and queue.normal_name:
        check_queue_name(queue.normal_name, rules, partition=True)
    if user_defined:
        check_not_internal(queue.name)


def check_queue_name(name: str, rules: Rules, *, partition: bool = False) -> None:
    """Check the length of a queue's name, and that its prefix is not reserved. Raise INVALID_ARGUMENT."""
    if length(name) > rules.config.max_id_length:
        raise invalid_argument("taskQueue length exceeds limit")
    if not partition and name.startswith(task_queues.RESERVED_PREFIX):
        raise invalid_argument(task_queues.RESERVED)


def check_queue_kind(queue: TaskQueue, task_type: TaskQueueType.ValueType) -> None:
    """Check that only a sticky queue has a normal name, and that worker commands are Nexus tasks.

    Raise INVALID_ARGUMENT.
    """
    if queue.normal_name and queue.kind != _STICKY:
        raise invalid_argument(
            f"only sticky queues can have normal name. tq: {queue.name}, normal name: {queue.normal_name}"
        )
    if queue.kind == TaskQueueKind.TASK_QUEUE_KIND_WORKER_COMMANDS and task_type != TaskQueueType.TASK_QUEUE_TYPE_NEXUS:
        name = TaskQueueType.Name(task_type).removeprefix("TASK_QUEUE_TYPE_").capitalize()
        raise invalid_argument(
            f"worker-commands partitions must have nexus task type, got: {name}. base name: {queue.name}"
        )


def check_not_internal(name: str) -> None:
    """Refuse the queues on which the server itself works."""
    if fault := task_queues.internal_fault(name):
        raise invalid_argument(fault)


def check_user_metadata(metadata: UserMetadata, rules: Rules) -> None:
    """Check the sizes of summary and details. Raise INVALID_ARGUMENT."""
    limits = rules.config.user_metadata_summary_size, rules.config.user_metadata_details_size
    for field, text, limit in zip(("summary", "details"), (metadata.summary, metadata.details), limits, strict=True):
        if text.ByteSize() > limit:
            raise invalid_argument(f"user_metadata.{field} exceeds size limit. Length={text.ByteSize()} Limit={limit}")


def check_priority(priority: Priority) -> None:
    """Check priority and fairness. Raise INVALID_ARGUMENT."""
    if priority.priority_key < 0:
        raise invalid_argument("priority key can't be negative")
    if length(priority.fairness_key) > _FAIRNESS_KEY_LENGTH:
        raise invalid_argument("fairness key length exceeds limit")
    if priority.fairness_weight < 0:
        raise invalid_argument("must be greater than zero")


def check_links(links: Iterable[Link], rules: Rules) -> None:
    """Check that links are not too many or too large, and complete. Raise INVALID_ARGUMENT."""
    every = list(links)
    if len(every) > rules.config.max_links_per_request:
        raise invalid_argument(
            f"cannot attach more than {rules.config.max_links_per_request} links per request, got {len(every)}"
        )
    for link in every:
        _check_link(link, rules)


_LINK_FIELDS = {
    "workflow_event": (
        "workflow event",
        (("namespace", "namespace field"), ("workflow_id", "workflow ID field"), ("run_id", "run ID field")),
    ),
    "batch_job": ("batch job", (("job_id", "job ID"),)),
    "nexus_operation": (
        "nexus operation",
        (("namespace", "namespace field"), ("operation_id", "operation ID field"), ("run_id", "run ID field")),
    ),
    "activity": (
        "activity",
        (("namespace", "namespace field"), ("activity_id", "activity ID field"), ("run_id", "run ID field")),
    ),
    "workflow": (
        "workflow",
        (("namespace", "namespace field"), ("workflow_id", "workflow ID field"), ("run_id", "run ID field")),
    ),
}


def _check_link(link: Link, rules: Rules) -> None:
    if link.ByteSize() > rules.config.link_max_size:
        raise invalid_argument(f"link exceeds allowed size of {rules.config.link_max_size}, got {link.ByteSize()}")
    kind = link.WhichOneof("variant")
    if kind is None or kind not in _LINK_FIELDS:
        raise invalid_argument("unsupported link variant")
    noun, fields = _LINK_FIELDS[kind]
    variant = getattr(link, kind)
    for field, name in fields:
        if not getattr(variant, field):
            raise invalid_argument(f"{noun} link must not have an empty {name}")
    if kind == "workflow_event" and variant.event_ref.event_id and not variant.event_ref.event_type:
        raise invalid_argument("workflow event link ref cannot have an unspecified event type and a non-zero event ID")


def check_search_attributes(attributes: SearchAttributes, namespace: Namespace, rules: Rules) -> None:
    """Check search attributes set by a user. Raises UnknownSearchAttribute if the namespace has to be read again.

    Any other fault raises INVALID_ARGUMENT.
    """
    for name in sorted(attributes.indexed_fields):
        if name not in SYSTEM_AND_PREDEFINED and name not in namespace.custom_search_attributes:
            raise UnknownSearchAttribute(namespace.name, name)
    config = rules.config
    limits = Limits(
        config.search_attributes_number_of_keys_limit,
        config.search_attributes_size_of_value_limit,
        config.search_attributes_total_size_limit,
    )
    try:
        validate(attributes, namespace.custom_search_attributes, namespace.name, limits)
    except InvalidSearchAttributes as error:
        raise invalid_argument(error.message) from None
    stamp_types(attributes, namespace)


def stamp_types(attributes: SearchAttributes, namespace: Namespace) -> None:
    """Add each attribute's type to its payload if the client omitted it, because readers of history rely on it."""
    for name, payload in attributes.indexed_fields.items():
        kind = namespace.custom_search_attributes.get(name) or SYSTEM_AND_PREDEFINED.get(name)
        if kind is not None and "type" not in payload.metadata:
            payload.metadata["type"] = kind.name.encode()


def check_blob(message: Message, rules: Rules) -> None:
    """Check that a payload-like part of a request is not too large for an event. Raise INVALID_ARGUMENT."""
    check_blob_size(message.ByteSize(), rules)


def check_blob_size(size: int, rules: Rules) -> None:
    """Check the total size of several such parts. Raise INVALID_ARGUMENT."""
    if size > rules.config.blob_size_limit_error:
        raise invalid_argument(BLOB_TOO_LARGE)
    if size > rules.config.blob_size_limit_warn:
        rules.warn("payloads of %d bytes are over the warning limit of %d", size, rules.config.blob_size_limit_warn)


def check_memo(memo: Memo, rules: Rules) -> None:
    """Check the size of a new workflow's memo. Raise INVALID_ARGUMENT."""
    size = memo.ByteSize()
    if size > rules.config.memo_size_limit_error:
        raise invalid_argument("Memo size exceeds limit.")
    if size > rules.config.memo_size_limit_warn:
        rules.warn("a memo of %d bytes is over the warning limit of %d", size, rules.config.memo_size_limit_warn)
