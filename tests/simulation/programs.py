"""What the simulated workers run: workflow programs as functions of the history, without any SDK.

A program is called anew with each workflow task. It looks at what has happened (`Progress`), asks for what it needs, and
says whether it is done. Asking twice for the same thing asks once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.protocol.v1 import message_pb2 as protocol_pb
from temporalio.api.update.v1 import message_pb2 as update_pb

from tests.core.command_builders import fill, payloads
from tests.core.harness import short_name
from whistlestop.history.core.times import SECOND_NS, set_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from temporalio.api.history.v1 import message_pb2 as history_pb

ACTIVITY_ENDS = ("ActivityTaskCompleted", "ActivityTaskFailed", "ActivityTaskTimedOut", "ActivityTaskCanceled")


def encode(value: Any) -> common_pb.Payloads:
    data = json.dumps(value).encode()
    return common_pb.Payloads(payloads=[common_pb.Payload(metadata={"encoding": b"json/plain"}, data=data)])


def decode(value: common_pb.Payloads) -> Any:
    return json.loads(value.payloads[0].data)


class Progress:
    """What history says so far, and the commands that are wanted now."""

    def __init__(self, events: Iterable[history_pb.HistoryEvent], workflow_id: str, run_id: str) -> None:
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.commands: list[command_pb.Command] = []
        self.asked: set[str] = set()
        self.over: dict[str, str] = {}
        self.child_started: set[str] = set()
        self.signals: list[str] = []
        self.cancel_requested = False
        self.admitted: dict[str, tuple[int, update_pb.Request]] = {}
        """By an event, as a reset does: as SDKs do, the worker makes the request out of that."""
        self.accepted: dict[str, int] = {}
        self.completed_updates: set[str] = set()
        self.argument: dict[str, Any] = {}
        self.attempt = 1
        keys: dict[int, str] = {}
        for event in events:
            self._note(event, keys)

    def _note(self, event: history_pb.HistoryEvent, keys: dict[int, str]) -> None:
        name = short_name(event)
        a: Any = getattr(event, event.WhichOneof("attributes") or "")
        if name == "WorkflowExecutionStarted":
            self.argument = decode(a.input) if a.input.payloads else {}
            self.attempt = a.attempt
        elif name == "WorkflowExecutionSignaled":
            self.signals.append(a.signal_name)
        elif name == "WorkflowExecutionCancelRequested":
            self.cancel_requested = True
        elif name == "ActivityTaskScheduled":
            keys[event.event_id] = f"activity {a.activity_id}"
        elif name in ACTIVITY_ENDS:
            self.over[keys[a.scheduled_event_id]] = name
        elif name == "TimerStarted":
            keys[event.event_id] = f"timer {a.timer_id}"
        elif name in ("TimerFired", "TimerCanceled"):
            self.over[keys[a.started_event_id]] = name
        else:
            self._note_others(event.event_id, name, a, keys)
        self.asked = set(keys.values())

    def _note_others(self, event_id: int, name: str, a: Any, keys: dict[int, str]) -> None:
        """Of children, other executions and updates."""
        if name == "StartChildWorkflowExecutionInitiated":
            keys[event_id] = f"child {a.workflow_id}"
        elif name == "ChildWorkflowExecutionStarted":
            self.child_started.add(keys[a.initiated_event_id])
        elif name.startswith(("ChildWorkflowExecution", "StartChildWorkflowExecutionFailed")):
            self.over[keys[a.initiated_event_id]] = name
        elif name == "SignalExternalWorkflowExecutionInitiated":
            keys[event_id] = f"signal {a.control}"
        elif name == "RequestCancelExternalWorkflowExecutionInitiated":
            keys[event_id] = f"cancel {a.control}"
        elif name.startswith(("ExternalWorkflowExecution", "SignalExternal", "RequestCancelExternal")):
            self.over[keys[a.initiated_event_id]] = name
        elif name == "WorkflowExecutionUpdateAdmitted":
            self.admitted[a.request.meta.update_id] = event_id, a.request
        elif name == "WorkflowExecutionUpdateAccepted":
            self.accepted[a.protocol_instance_id] = event_id
        elif name == "WorkflowExecutionUpdateCompleted":
            self.completed_updates.add(a.meta.update_id)

    def _ask(self, key: str, command: command_pb.Command) -> bool:
        if key not in self.asked:
            self.asked.add(key)
            self.commands.append(command)
        return key in self.over

    # ---- what programs ask for ----------------------------------------------------------------------------------

    def activity(self, key: str, **fields: Any) -> bool:
        """True when it is over, in whatever way."""
        command = command_pb.Command(command_type=ct.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
        a = command.schedule_activity_task_command_attributes
        a.activity_id = key
        a.activity_type.name = "work"
        a.task_queue.name = "q"
        fields.setdefault("start_to_close_timeout_s", 5)
        fill(a, fields)
        return self._ask(f"activity {key}", command)

    def timer(self, key: str, seconds: float) -> bool:
        command = command_pb.Command(command_type=ct.COMMAND_TYPE_START_TIMER)
        a = command.start_timer_command_attributes
        a.timer_id = key
        set_duration(a.start_to_fire_timeout, round(seconds * SECOND_NS))
        return self._ask(f"timer {key}", command)

    def cancel_timer(self, key: str) -> None:
        if f"timer {key}" in self.asked and f"timer {key}" not in self.over:
            command = command_pb.Command(command_type=ct.COMMAND_TYPE_CANCEL_TIMER)
            command.cancel_timer_command_attributes.timer_id = key
            self.commands.append(command)
            self.over[f"timer {key}"] = "cancelled now"

    def child(self, key: str, program: str, policy: int = 0, **argument: Any) -> bool:
        workflow_id = f"{self.workflow_id}/{key}"
        command = command_pb.Command(command_type=ct.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION)
        a = command.start_child_workflow_execution_command_attributes
        a.workflow_id = workflow_id
        a.workflow_type.name = program
        a.task_queue.name = "q"
        a.input.CopyFrom(encode(argument))
        a.parent_close_policy = policy or wf_enums.PARENT_CLOSE_POLICY_TERMINATE  # type: ignore[assignment]
        return self._ask(f"child {workflow_id}", command)

    def has_started(self, key: str) -> bool:
        name = f"child {self.workflow_id}/{key}"
        return name in self.child_started or name in self.over

    def signal_other(self, key: str, workflow_id: str, name: str) -> bool:
        command = command_pb.Command(command_type=ct.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION)
        a = command.signal_external_workflow_execution_command_attributes
        a.execution.workflow_id = workflow_id
        a.signal_name = name
        a.control = key
        return self._ask(f"signal {key}", command)

    def cancel_other(self, key: str, workflow_id: str) -> bool:
        command = command_pb.Command(command_type=ct.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION)
        a = command.request_cancel_external_workflow_execution_command_attributes
        a.workflow_id = workflow_id
        a.control = key
        return self._ask(f"cancel {key}", command)


# ---- programs: True when the workflow is done ---------------------------------------------------------------------------

_RETRIES = common_pb.RetryPolicy(maximum_attempts=3, backoff_coefficient=2.0)
set_duration(_RETRIES.initial_interval, SECOND_NS)


def sequence(p: Progress) -> bool:
    return all(p.activity(f"a{i}", retry_policy=_RETRIES) for i in range(int(p.argument.get("n", 3))))


def timers(p: Progress) -> bool:
    return p.timer("t0", 1) and p.activity("a", heartbeat_timeout_s=3) and p.timer("t1", 7.5)


def parallel(p: Progress) -> bool:
    done = [p.activity(f"a{i}") for i in range(4)]
    done += [p.timer(f"t{i}", i + 0.25) for i in range(3)]
    return all(done)


def race(p: Progress) -> bool:
    """An activity against a timer that is cancelled when it is no longer needed."""
    over = p.activity("a", start_to_close_timeout_s=2, retry_policy=_RETRIES)
    if p.timer("limit", 20):
        return True
    if over:
        p.cancel_timer("limit")
    return over


def parent(p: Progress) -> bool:
    done = [p.child(f"c{i}", program) for i, program in enumerate(("sequence", "timers"))]
    return all(done)


def leaver(p: Progress) -> bool:
    """Ends as soon as its children run."""
    p.child("kept", "sequence", wf_enums.PARENT_CLOSE_POLICY_ABANDON)
    p.child("ended", "waiter", wf_enums.PARENT_CLOSE_POLICY_TERMINATE)
    p.child("asked", "waiter", wf_enums.PARENT_CLOSE_POLICY_REQUEST_CANCEL)
    return all(p.has_started(key) for key in ("kept", "ended", "asked"))


def waiter(p: Progress) -> bool:
    return "finish" in p.signals or p.timer("patience", 90)


def pinger(p: Progress) -> bool:
    target = p.argument.get("target", "nobody")
    sent = [p.signal_other(f"s{i}", target, f"ping {p.workflow_id} {p.run_id} {i}") for i in range(3)]
    return all(sent) and p.timer("t", 1)


def canceller(p: Progress) -> bool:
    return p.timer("t", 2) and p.cancel_other("c", p.argument.get("target", "nobody"))


def looper(p: Progress) -> bool:
    if not p.timer("t", 1.5) or not p.activity("a"):
        return False
    left = int(p.argument.get("left", 2))
    if left <= 0:
        return True
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION)
    a = command.continue_as_new_workflow_execution_command_attributes
    a.input.CopyFrom(encode({"left": left - 1}))
    p.commands.append(command)
    return False


def failing(p: Progress) -> bool:
    """Fails once, is retried, and then is fine."""
    if not p.activity("a"):
        return False
    if p.attempt >= 2:
        return True
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION)
    failure = command.fail_workflow_execution_command_attributes.failure
    failure.message = "once"
    failure.application_failure_info.type = "Once"
    p.commands.append(command)
    return False


def updated(p: Progress) -> bool:
    """Serves updates for a while; see `answer_updates`."""
    return p.timer("open", 40)


PROGRAMS: dict[str, Callable[[Progress], bool]] = {
    each.__name__: each
    for each in (
        sequence,
        timers,
        parallel,
        race,
        parent,
        leaver,
        waiter,
        pinger,
        canceller,
        looper,
        failing,
        updated,
    )
}
CLOSING = frozenset(
    {
        ct.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
        ct.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
    }
)


def answer_updates(p: Progress, requests: Sequence[protocol_pb.Message], messages: list[protocol_pb.Message]) -> None:
    """Updates named `no…` are rejected, `late…` are accepted now and completed when the workflow ends, others at once."""
    for update_id, (event_id, admitted) in p.admitted.items():
        if update_id not in p.accepted:
            _accept(p, messages, update_id, admitted, event_id)
    for request in requests:
        wanted = update_pb.Request.FromString(request.body.value)
        update_id = request.protocol_instance_id
        if wanted.input.name.startswith("no"):
            rejection = update_pb.Rejection(
                rejected_request_message_id=request.id, rejected_request_sequencing_event_id=request.event_id
            )
            rejection.rejected_request.CopyFrom(wanted)
            rejection.failure.message = "no"
            _say(p, messages, update_id, rejection)
            continue
        _accept(p, messages, update_id, wanted, request.event_id)


def _accept(
    p: Progress, messages: list[protocol_pb.Message], update_id: str, wanted: update_pb.Request, event_id: int
) -> None:
    acceptance = update_pb.Acceptance(
        accepted_request_message_id=f"{update_id}/request", accepted_request_sequencing_event_id=event_id
    )
    acceptance.accepted_request.CopyFrom(wanted)
    _say(p, messages, update_id, acceptance)
    p.accepted[update_id] = 0
    if not wanted.input.name.startswith("late"):
        complete_update(p, messages, update_id)


def complete_update(p: Progress, messages: list[protocol_pb.Message], update_id: str) -> None:
    response = update_pb.Response()
    response.meta.update_id = update_id
    response.outcome.success.CopyFrom(payloads(f"outcome of {update_id}"))
    _say(p, messages, update_id, response)
    p.completed_updates.add(update_id)


def _say(p: Progress, messages: list[protocol_pb.Message], update_id: str, body: Any) -> None:
    message = protocol_pb.Message(id=f"{update_id}/{type(body).__name__}", protocol_instance_id=update_id)
    message.body.Pack(body)
    messages.append(message)
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_PROTOCOL_MESSAGE)
    command.protocol_message_command_attributes.message_id = message.id
    p.commands.append(command)


def work(
    program: str, p: Progress, requests: Sequence[protocol_pb.Message]
) -> tuple[list[command_pb.Command], list[protocol_pb.Message]]:
    """The commands and messages that answer a workflow task."""
    messages: list[protocol_pb.Message] = []
    answer_updates(p, requests, messages)
    ends = command_pb.Command()
    if p.cancel_requested and program != "parent":
        ends.command_type = ct.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION
        ends.cancel_workflow_execution_command_attributes.SetInParent()
    elif PROGRAMS[program](p):
        ends.command_type = ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION
        ends.complete_workflow_execution_command_attributes.result.CopyFrom(encode(sorted(p.signals)))
    closing = [c for c in p.commands if c.command_type in CLOSING]
    commands = [c for c in p.commands if c.command_type not in CLOSING]
    if closing or ends.command_type:
        p.commands = commands
        for update_id in sorted(set(p.accepted) - p.completed_updates):
            complete_update(p, messages, update_id)
        commands = p.commands
        commands += closing or [ends]
    return commands, messages
