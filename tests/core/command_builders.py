"""Commands for tests, each valid whatever the test does not name."""

from __future__ import annotations

from typing import Any, TypeVar

from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct

from whistlestop.history.core.times import SECOND_NS, set_duration

M = TypeVar("M")


def made(kind: type[M], /, **fields: Any) -> M:
    """Return a message with these fields; messages in it may be given as dictionaries, which its type does not say."""
    return kind(**fields)


def payloads(*texts: str) -> common_pb.Payloads:
    return common_pb.Payloads(payloads=[payload(text) for text in texts])


def payload(text: str) -> common_pb.Payload:
    return common_pb.Payload(metadata={"encoding": b"json/plain"}, data=f'"{text}"'.encode())


def fill(message: Any, fields: dict[str, Any]) -> None:
    """Set fields; a key that ends in `_s` is a duration in seconds, under the name without it."""
    for name, value in fields.items():
        if name.endswith("_s") and name[:-2] in message.DESCRIPTOR.fields_by_name:
            set_duration(getattr(message, name[:-2]), round(value * SECOND_NS))
        elif hasattr(getattr(message, name), "CopyFrom"):
            getattr(message, name).CopyFrom(value)
        elif isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)


def schedule_activity(activity_id: str = "a", **fields: Any) -> command_pb.Command:
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
    a = command.schedule_activity_task_command_attributes
    a.activity_id = activity_id
    a.activity_type.name = "charge"
    a.task_queue.name = "orders"
    if "start_to_close_timeout_s" not in fields and "schedule_to_close_timeout_s" not in fields:
        fields["start_to_close_timeout_s"] = 10
    fill(a, fields)
    return command


def cancel_activity(scheduled_event_id: int) -> command_pb.Command:
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK)
    command.request_cancel_activity_task_command_attributes.scheduled_event_id = scheduled_event_id
    return command


def start_timer(timer_id: str = "t", seconds: float = 1) -> command_pb.Command:
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_START_TIMER)
    a = command.start_timer_command_attributes
    a.timer_id = timer_id
    set_duration(a.start_to_fire_timeout, round(seconds * SECOND_NS))
    return command


def cancel_timer(timer_id: str = "t") -> command_pb.Command:
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_CANCEL_TIMER)
    command.cancel_timer_command_attributes.timer_id = timer_id
    return command


def complete_workflow(*results: str) -> command_pb.Command:
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
    command.complete_workflow_execution_command_attributes.SetInParent()
    if results:
        command.complete_workflow_execution_command_attributes.result.CopyFrom(payloads(*results))
    return command


def fail_workflow(message: str = "broken", **application: Any) -> command_pb.Command:
    """Application failure; keywords are fields of its info."""
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION)
    failure = command.fail_workflow_execution_command_attributes.failure
    failure.message = message
    failure.application_failure_info.SetInParent()
    fill(failure.application_failure_info, application)
    return command


def cancel_workflow(*details: str) -> command_pb.Command:
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION)
    command.cancel_workflow_execution_command_attributes.SetInParent()
    if details:
        command.cancel_workflow_execution_command_attributes.details.CopyFrom(payloads(*details))
    return command


def continue_as_new(**fields: Any) -> command_pb.Command:
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION)
    a = command.continue_as_new_workflow_execution_command_attributes
    a.SetInParent()
    fill(a, fields)
    return command
