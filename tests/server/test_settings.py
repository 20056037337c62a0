"""Dynamic configuration at work, where the real server is no use to compare with: see tests/parity/scenarios/settings.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.enums.v1 import common_pb2 as enums
from temporalio.api.enums.v1.workflow_pb2 import PENDING_WORKFLOW_TASK_STATE_STARTED
from temporalio.api.history.v1 import message_pb2 as history_pb

from tests.parity import servers, updating
from tests.parity.commands import activity, child, complete_workflow
from tests.parity.puppet import Puppet, payload
from tests.parity.scenarios import nexus
from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)

COMPLETED = "nexus_operation_completed_event_attributes"
TEMPLATE = "http://127.0.0.1:1/namespaces/{{.NamespaceName}}/nexus/callback?id={{.NamespaceID}}"
SETTINGS = (
    "frontend.sendRawWorkflowHistory=true",
    "limit.historyMaxPageSize=2",
    "component.nexusoperations.useSystemCallbackURL=false",
    f'component.nexusoperations.callback.endpoint.template="{TEMPLATE}"',
    "matching.maxFairnessKeyWeightOverrides=1",
    "limit.userMetadataSummarySize=5",
    "frontend.callbackURLMaxLength=150",
    'callback.allowedAddresses=[{"Pattern": "*", "AllowInsecure": true}]',
    'system.namespaceMinRetentionLocal="2h"',
    "history.enableDropRepeatedWorkflowTaskFailures=true",
    "history.enableWorkflowIdReuseStartTimeValidation=true",
    'history.workflowIdReuseMinimalInterval="1h"',
    'history.defaultActivityRetryPolicy={"InitialIntervalInSeconds": 7, "MaximumAttempts": 3}',
    'history.defaultWorkflowRetryPolicy={"MaximumIntervalCoefficient": 10, "BackoffCoefficient": 1.5}',
    "system.maxCallbacksPerUpdateID=1",
    "history.allowResetWithPendingChildren=false",
    'frontend.disabledScheduleValidations=["Scheduler-Duration", "versioning-override"]',
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[servers.Server]:
    with servers.in_a_loop_of_its_own(servers.our_server("memory", SETTINGS, plain=True)) as address:
        yield address


async def test_a_history_is_answered_raw(p: Puppet) -> None:
    """Batch by batch, and nothing decoded; the close event alone likewise."""
    await p.start()
    task = await p.workflow_task()
    await p.complete(task, complete_workflow())
    answer = await p.history()
    assert answer.HasField("history")
    assert not answer.history.events
    assert {blob.encoding_type for blob in answer.raw_history} == {enums.ENCODING_TYPE_PROTO3}
    batches = [[e.event_id for e in history_pb.History.FromString(blob.data).events] for blob in answer.raw_history]
    assert batches == [[1, 2], [3], [4, 5]]
    closed = await p.closed()
    (blob,) = closed.raw_history
    assert [e.event_id for e in history_pb.History.FromString(blob.data).events] == [5]


async def test_a_raw_page_has_events_that_are_not_written(p: Puppet) -> None:
    await p.start()
    await p.fail_task(await p.workflow_task())
    await p.workflow_task()
    batches = [history_pb.History.FromString(blob.data).events for blob in (await p.history()).raw_history]
    assert [event.event_id for events in batches for event in events] == [1, 2, 3, 4, 5, 6]


async def test_the_history_of_a_workflow_task_comes_in_pages(p: Puppet) -> None:
    await p.start()
    for name in ("one", "two"):
        await p.step()
        await p.signal(name)
    task = await p.workflow_task()
    seen = [event.event_id for event in task.history.events]
    assert len(seen) < task.started_event_id
    token = task.next_page_token
    while token:
        page = await p.history(run_id=task.workflow_execution.run_id, next_page_token=token)
        for blob in page.raw_history:
            seen += [event.event_id for event in history_pb.History.FromString(blob.data).events]
        token = page.next_page_token
    assert seen == list(range(1, task.started_event_id + 1))


async def test_a_handler_is_given_the_templates_url(p: Puppet) -> None:
    """With what stands for the caller's namespace filled in."""
    await nexus.endpoint(p)
    await p.start()
    await p.step(nexus.operation(p))
    task = await p.call("PollNexusTaskQueue", **p.poll_fields())
    namespace_id = (await p.call("DescribeNamespace")).namespace_info.id
    wanted = TEMPLATE.replace("{{.NamespaceName}}", "default").replace("{{.NamespaceID}}", namespace_id)
    assert task.request.start_operation.callback == wanted


async def test_a_callback_to_the_templates_url_needs_no_connection(p: Puppet) -> None:
    """Where it leads to the run's own namespace: the server delivers it itself. Nobody listens at the URL."""
    await nexus.endpoint(p)
    await p.start()
    await p.step(nexus.operation(p))
    start = (await p.call("PollNexusTaskQueue", **p.poll_fields())).request.start_operation
    callback = {"nexus": {"url": start.callback, "header": dict(start.callback_header)}}
    elsewhere = {"nexus": {"url": "http://127.0.0.1:1/", "header": dict(start.callback_header)}}
    handler = p.id("handler")
    await p.start(handler, task_queue={"name": handler}, completion_callbacks=[elsewhere, callback])
    task = await p.workflow_task(handler)
    await p.complete(task, complete_workflow("out"))

    states: list[int] = []
    while states[1:] != [enums.CALLBACK_STATE_SUCCEEDED]:
        states = [each.state for each in (await p.describe(handler)).callbacks]
    assert states[0] != enums.CALLBACK_STATE_SUCCEEDED
    raw = (await p.history()).raw_history
    events = [event for blob in raw for event in history_pb.History.FromString(blob.data).events]
    (completed,) = (event for event in events if event.WhichOneof("attributes") == COMPLETED)
    assert completed.nexus_operation_completed_event_attributes.result.data == b'"out"'


async def test_a_queue_has_few_fairness_weights(p: Puppet) -> None:
    queue: dict[str, Any] = {"task_queue": p.task_queue, "task_queue_type": "TASK_QUEUE_TYPE_ACTIVITY"}
    many = await p.refused("UpdateTaskQueueConfig", **queue, set_fairness_weight_overrides={"a": 1, "b": 2})
    assert many.message == "too many fairness weight overrides in request: got 2, maximum 1"
    await p.call("UpdateTaskQueueConfig", **queue, set_fairness_weight_overrides={"a": 1})
    another = await p.refused("UpdateTaskQueueConfig", **queue, set_fairness_weight_overrides={"b": 1})
    assert another.message == "fairness weight overrides update rejected: exceeding maximum key size"


async def test_a_summary_is_short(p: Puppet) -> None:
    refusal = await p.refused(
        "StartActivityExecution", activity_id=p.id("a"), activity_type={"name": "Act"}, request_id="r",
        task_queue={"name": p.task_queue}, start_to_close_timeout={"seconds": 9},
        user_metadata={"summary": payload("long")},
    )  # fmt: skip
    assert "user_metadata.summary exceeds size limit" in refusal.message
    assert refusal.message.endswith("Limit=5")


async def test_a_callbacks_url_is_short(p: Puppet) -> None:
    callback = {"nexus": {"url": "http://127.0.0.1:1/" + "x" * 150}}
    refusal = await p.refused("StartWorkflowExecution", **p.start_fields(completion_callbacks=[callback]))
    assert "max length allowed of 150" in refusal.message


async def test_a_namespace_keeps_its_runs_for_as_long_as_is_wanted(p: Puppet) -> None:
    fields: dict[str, Any] = {"namespace": p.id("ns"), "workflow_execution_retention_period": {"seconds": 3601}}
    refusal = await p.refused("RegisterNamespace", **fields)
    assert refusal.message == "A valid retention period is not set on request."
    await p.call("RegisterNamespace", **fields | {"workflow_execution_retention_period": {"seconds": 7200}})


async def test_failures_of_later_attempts_are_dropped(p: Puppet) -> None:
    await p.start()
    await p.fail_task(await p.workflow_task())
    second = await p.workflow_task()
    await p.fail_task(second)
    pending = (await p.describe()).pending_workflow_task
    assert (pending.attempt, pending.state) == (2, PENDING_WORKFLOW_TASK_STATE_STARTED)
    await p.complete(second, complete_workflow())


async def test_a_workflow_id_is_not_used_again_at_once(p: Puppet) -> None:
    await p.start()
    restart = await p.refused(
        "StartWorkflowExecution",
        **p.start_fields(workflow_id_conflict_policy="WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING"),
    )
    assert (restart.code, restart.message.partition(".")[0]) == (
        "RESOURCE_EXHAUSTED", f"Too many restarts for workflow {p.workflow_id}",
    )  # fmt: skip
    await p.terminate()
    start = await p.refused("StartWorkflowExecution", **p.start_fields())
    assert start.message.startswith(f"Too many starts for workflow {p.workflow_id}. Time since last start: ")
    with_signal = await p.refused("SignalWithStartWorkflowExecution", **p.start_fields(signal_name="s"))
    assert with_signal.message.startswith("Too many starts")


async def test_retry_policies_have_the_configured_defaults(p: Puppet) -> None:
    await p.start(retry_policy={"maximum_attempts": 2})
    await p.step(activity("a", p.task_queue), activity("b", p.task_queue, retry_policy={"maximum_attempts": 9}))
    blobs = (await p.history()).raw_history
    events = [event for blob in blobs for event in history_pb.History.FromString(blob.data).events]
    started = events[0].workflow_execution_started_event_attributes.retry_policy
    assert (started.maximum_interval.seconds, started.backoff_coefficient, started.maximum_attempts) == (10, 1.5, 2)
    first, second = (event.activity_task_scheduled_event_attributes.retry_policy for event in events[4:6])
    assert (first.initial_interval.seconds, first.maximum_interval.seconds, first.maximum_attempts) == (7, 700, 3)
    assert second.maximum_attempts == 9
    standalone = await p.call(
        "StartActivityExecution", activity_id=p.id("a"), activity_type={"name": "Act"}, request_id="r",
        task_queue={"name": p.task_queue}, start_to_close_timeout={"seconds": 9},
    )  # fmt: skip
    described = await p.call("DescribeActivityExecution", activity_id=p.id("a"), run_id=standalone.run_id)
    assert described.info.retry_policy.maximum_attempts == 3


async def test_an_update_has_few_callbacks(p: Puppet) -> None:
    await p.start()
    await p.step()
    callback = {"nexus": {"url": "http://127.0.0.1:1/"}}

    def fields(request_id: str, count: int) -> dict[str, Any]:
        asked = p.update_fields("change", "u", stage="ACCEPTED")
        asked["request"] |= {"request_id": request_id, "completion_callbacks": [callback] * count}
        return asked

    refusal = 'cannot attach more than 1 callbacks to update "u" ({} callbacks already attached)'
    assert (await p.refused("UpdateWorkflowExecution", **fields("first", 2))).message == refusal.format(0)
    asking = p.begin("UpdateWorkflowExecution", **fields("second", 1))
    task = await p.workflow_task()
    assert (await p.refused("UpdateWorkflowExecution", **fields("third", 1))).message == refusal.format(1)
    await updating.respond(p, task, [updating.accept(task.messages[0])])
    await asking.answer()
    assert (await p.refused("UpdateWorkflowExecution", **fields("fourth", 1))).message == refusal.format(1)


async def test_a_run_is_not_reset_to_where_it_had_a_child(p: Puppet) -> None:
    await p.start()
    await p.step(child(p.id("child"), p.id("child-queue")))
    await p.step()  # the child has started
    point: dict[str, Any] = {"workflow_execution": p.execution(), "reason": "again", "request_id": "r"}
    refusal = await p.refused("ResetWorkflowExecution", **point, workflow_task_finish_event_id=9)
    assert refusal.message == "WorkflowResetter encountered pending child workflows."
    await p.call("ResetWorkflowExecution", **point, workflow_task_finish_event_id=4)


async def test_schedule_validations_that_are_disabled_refuse_nothing(p: Puppet) -> None:
    """What they would have refused is stored as it was given, and works as far as it can."""
    action = {"workflow_id": p.id("w"), "workflow_type": {"name": "w"}, "task_queue": {"name": p.task_queue}}
    spec = {"interval": [{"interval": {"seconds": 1, "nanos": 2_000_000_000}, "phase": {"seconds": 2, "nanos": -1}}]}
    schedule = {"spec": spec, "action": {"start_workflow": {**action, "versioning_override": {"pinned": {}}}}}
    asked: dict[str, Any] = {"schedule_id": p.id("s"), "request_id": "r", "schedule": schedule}
    await p.call("CreateSchedule", **asked)
    await p.call("UpdateSchedule", **asked)
    described = await p.call("DescribeSchedule", record=False, schedule_id=p.id("s"))
    stored = described.schedule.spec.interval[0]
    assert (stored.interval.nanos, stored.phase.nanos) == (2_000_000_000, -1)
    assert described.schedule.action.start_workflow.versioning_override.HasField("pinned")
    first, second = (time.seconds for time in described.info.future_action_times[:2])
    assert (second - first, first % 3) == (3, 1)
    too_small = schedule | {"spec": {"interval": [{"interval": {"seconds": 1, "nanos": -1}}]}}
    refusal = await p.refused("CreateSchedule", schedule_id=p.id("t"), request_id="r", schedule=too_small)
    assert refusal.message == "Invalid schedule spec: interval is too small"
