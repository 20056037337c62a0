"""How a workflow execution is shown to people: its state, its result, what is pending, and its events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from whistlestop.server.cli.output import instant, print_fields, print_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_STATUS_PREFIX = "WORKFLOW_EXECUTION_STATUS_"
_EVENT_PREFIX = "EVENT_TYPE_"
_MAX_CAUSES = 20
_MAX_TEXT = 1_000


def row(info: Any) -> tuple[object, ...]:
    """Return a row of the list: status, id, type, task queue, start, close, run id."""
    return (
        _status(info.status),
        info.execution.workflow_id,
        info.type.name,
        info.task_queue,
        _at(info.start_time),
        _at(info.close_time) if info.HasField("close_time") else "",
        info.execution.run_id,
    )


def print_execution(described: Any, events: Sequence[Any], closing: Any) -> None:
    """Print a DescribeWorkflowExecutionResponse, its events, and its outcome (`closing`: an event, or None)."""
    info = described.workflow_execution_info
    print_fields(
        f"{info.execution.workflow_id}  {_status(info.status)}",
        (
            ("run id", info.execution.run_id),
            ("type", info.type.name),
            ("task queue", info.task_queue),
            ("started", _at(info.start_time)),
            ("closed", _at(info.close_time) if info.HasField("close_time") else ""),
            ("events", info.history_length or ""),
            *_outcome(closing),
            *_workflow_task(described),
        ),
    )
    _print_pending(described)
    _print_timers(events)
    print_table(
        ("id", "at", "event", "detail"),
        [(event.event_id, _at(event.event_time), _event_name(event.event_type), _detail(event)) for event in events],
    )


def _outcome(closing: Any) -> Iterator[tuple[str, object]]:
    """Yield the result, the failure with its causes, or the following run."""
    if closing is None:
        return
    attributes = getattr(closing, closing.WhichOneof("attributes"))
    known = attributes.DESCRIPTOR.fields_by_name
    if "result" in known:
        yield "result", payloads_text(attributes.result)
    if "failure" in known and attributes.HasField("failure"):
        for number, failure in enumerate(_causes(attributes.failure)):
            yield "caused by" if number else "failure", _failure(failure)
    if "details" in known and attributes.details.payloads:
        yield "details", payloads_text(attributes.details)
    if "reason" in known:
        yield "reason", attributes.reason
    if "new_execution_run_id" in known:
        yield "next run", attributes.new_execution_run_id


def _workflow_task(described: Any) -> Iterator[tuple[str, object]]:
    task = described.pending_workflow_task
    if described.HasField("pending_workflow_task") and task.attempt > 1:
        yield "workflow task", f"failing, attempt {task.attempt}"


def _causes(failure: Any) -> Iterator[Any]:
    for _ in range(_MAX_CAUSES):
        yield failure
        if not failure.HasField("cause"):
            return
        failure = failure.cause


def _failure(failure: Any) -> str:
    kind = failure.application_failure_info.type if failure.HasField("application_failure_info") else ""
    return f"{kind}: {failure.message}" if kind else str(failure.message)


def payloads_text(payloads: Any) -> str:
    """Return payloads as JSON, or their encoding and size if they are not JSON; empty without payloads."""
    return ", ".join(_payload_text(payload) for payload in payloads.payloads)


def _payload_text(payload: Any) -> str:
    encoding = payload.metadata.get("encoding", b"").decode("ascii", "replace")
    if encoding == "binary/null":
        return "null"
    if encoding in ("json/plain", "json/protobuf"):
        try:
            text = json.dumps(json.loads(payload.data), ensure_ascii=False)
        except (ValueError, RecursionError):
            text = payload.data.decode("utf-8", "replace")
        return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}… ({len(text)} characters)"
    return f"({encoding or 'no encoding'}, {len(payload.data)} bytes)"


def _print_pending(described: Any) -> None:
    if described.pending_activities:
        print_table(
            ("activity", "type", "state", "attempt", "next attempt", "last failure"),
            [
                (
                    each.activity_id,
                    each.activity_type.name,
                    _activity_state(each.state),
                    f"{each.attempt} of {each.maximum_attempts}" if each.maximum_attempts else each.attempt,
                    _at(each.next_attempt_schedule_time) if each.HasField("next_attempt_schedule_time") else "",
                    _failure(each.last_failure) if each.HasField("last_failure") else "",
                )
                for each in described.pending_activities
            ],
            "Pending activities",
        )
    if described.pending_children:
        print_table(
            ("child", "type", "run id"),
            [(each.workflow_id, each.workflow_type_name, each.run_id) for each in described.pending_children],
            "Pending children",
        )
    if described.pending_nexus_operations:
        print_table(
            ("operation", "service", "endpoint", "attempt", "last failure"),
            [
                (
                    each.operation,
                    each.service,
                    each.endpoint,
                    each.attempt,
                    _failure(each.last_attempt_failure) if each.HasField("last_attempt_failure") else "",
                )
                for each in described.pending_nexus_operations
            ],
            "Pending Nexus operations",
        )


def _print_timers(events: Iterable[Any]) -> None:
    """Print the timers that were started and neither fired nor were cancelled."""
    pending: dict[str, str] = {}
    for event in events:
        kind = event.WhichOneof("attributes")
        if kind == "timer_started_event_attributes":
            started = event.timer_started_event_attributes
            fires_ns = event.event_time.ToNanoseconds() + started.start_to_fire_timeout.ToNanoseconds()
            pending[started.timer_id] = instant(fires_ns)
        elif kind in ("timer_fired_event_attributes", "timer_canceled_event_attributes"):
            pending.pop(getattr(event, kind).timer_id, None)
        elif event.event_type in _CLOSING:
            return
    if pending:
        print_table(("timer", "fires"), list(pending.items()), "Pending timers")


_CLOSING = frozenset((2, 3, 4, 21, 27, 28))
"""Event types of completed, failed, timed out, canceled, terminated, continued as new."""


def _at(timestamp: Any) -> str:
    return instant(timestamp.ToNanoseconds())


def _status(number: Any) -> str:
    from temporalio.api.enums.v1.workflow_pb2 import WorkflowExecutionStatus

    return _words(WorkflowExecutionStatus.Name(number).removeprefix(_STATUS_PREFIX))


def _activity_state(number: Any) -> str:
    from temporalio.api.enums.v1.workflow_pb2 import PendingActivityState

    return _words(PendingActivityState.Name(number).removeprefix("PENDING_ACTIVITY_STATE_"))


def _event_name(number: Any) -> str:
    from temporalio.api.enums.v1.event_type_pb2 import EventType

    return _words(EventType.Name(number).removeprefix(_EVENT_PREFIX))


def _words(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _detail(event: Any) -> str:
    """Return a short distinguishing detail of an event: names and ids, never payloads."""
    attributes = getattr(event, event.WhichOneof("attributes") or "", None)
    if attributes is None:
        return ""
    known = attributes.DESCRIPTOR.fields_by_name
    for name in ("activity_type", "workflow_type"):
        if name in known and getattr(attributes, name).name:
            return str(getattr(attributes, name).name)
    for name in ("signal_name", "timer_id", "marker_name"):
        if name in known and getattr(attributes, name):
            return str(getattr(attributes, name))
    if "failure" in known and attributes.HasField("failure"):
        return str(attributes.failure.message)
    return (
        f"of event {attributes.scheduled_event_id}"
        if "scheduled_event_id" in known and attributes.scheduled_event_id
        else ""
    )
