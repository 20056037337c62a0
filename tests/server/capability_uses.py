"""What each capability promises, used as a client or a worker uses it; and what its absence looks like."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.parity.commands import activity, command, complete_workflow, upsert_memo
from tests.parity.puppet import Puppet, failure, payload, payloads, seconds
from tests.parity.scenarios import nexus as nexus_scenarios
from tests.parity.updating import accept, finish

# ---- of the server ---------------------------------------------------------------------------------------------------


async def header_of_a_signal_and_a_query(p: Puppet) -> None:
    """The worker sees both."""
    header = {"fields": {"h": payload("x")}}
    await p.start()
    await p.signal("go", header=header)
    asked = p.begin("QueryWorkflow", execution=p.execution(), query={"query_type": "q", "header": header})
    task = await p.workflow_task()
    (signaled,) = [e for e in task.history.events if e.HasField("workflow_execution_signaled_event_attributes")]
    assert "h" in signaled.workflow_execution_signaled_event_attributes.header.fields
    await p.complete(task)
    task = await p.workflow_task()
    assert "h" in task.query.header.fields
    await p.call("RespondQueryTaskCompleted", task_token=task.task_token, completed_type="QUERY_RESULT_TYPE_ANSWERED")
    await asked.answer()


async def errors_by_whose_fault_they_are(p: Puppet) -> None:
    """A caller's own mistake is never INTERNAL, which would be the server's and might pass."""
    assert (await p.refused("DescribeWorkflowExecution", execution=p.execution())).code == "NOT_FOUND"
    assert (await p.refused("DescribeWorkflowExecution", execution={})).code == "INVALID_ARGUMENT"
    assert (await p.refused("RespondWorkflowTaskCompleted", task_token=b"\xff")).code == "INVALID_ARGUMENT"


async def heartbeat_in_a_failure(p: Puppet) -> None:
    """The next attempt gets it."""
    await p.start()
    await p.step(activity("a", p.task_queue, retry_policy={"initial_interval": seconds(0.01)}))
    task = await p.activity_task()
    await p.call(
        "RespondActivityTaskFailed", task_token=task.task_token, failure=failure("no"),
        last_heartbeat_details=payloads("so far"),
    )  # fmt: skip
    assert (await p.activity_task()).heartbeat_details.payloads[0].data == b'"so far"'


async def schedules(p: Puppet) -> None:
    """One starts a workflow."""
    action = {"start_workflow": p.start_fields(p.id("scheduled"))}
    action["start_workflow"].pop("request_id")
    action["start_workflow"].pop("identity")
    await p.call(
        "CreateSchedule", schedule_id=p.id("s"), request_id=p.id("r"), schedule={"action": action},
        initial_patch={"trigger_immediately": {}},
    )  # fmt: skip
    await p.workflow_task()
    assert (await p.call("DescribeSchedule", schedule_id=p.id("s"))).info.action_count == 1


async def no_schedules(p: Puppet) -> None:
    assert (await p.refused("CreateSchedule", schedule_id=p.id("s"))).code == "PERMISSION_DENIED"
    assert (await p.refused("ListSchedules")).code == "PERMISSION_DENIED"


async def encoded_failures(p: Puppet) -> None:
    """Message and stack trace as a payload reach the reader of the history."""
    await p.start()
    encoded = {**failure("Encoded failure"), "encoded_attributes": payload("secret")}
    await p.step(command("fail_workflow_execution", failure=encoded))
    failed = (await p.closed()).history.events[-1].workflow_execution_failed_event_attributes.failure
    assert failed.encoded_attributes.data == b'"secret"'


async def versions_by_build_id(p: Puppet) -> None:
    """A worker's version is known by its build id, and gets what is routed to it."""
    version = {"deployment_name": p.id("d"), "build_id": "1"}
    options: dict[str, Any] = {
        "deployment_options": {**version, "worker_versioning_mode": "WORKER_VERSIONING_MODE_VERSIONED"}
    }
    poll = p.begin("PollWorkflowTaskQueue", **p.poll_fields(), **options)
    await _until(p, "SetWorkerDeploymentCurrentVersion", deployment_name=p.id("d"), build_id="1")
    await p.start()
    task = await poll.answer()
    assert task.task_token
    await p.complete(task, complete_workflow(), versioning_behavior="VERSIONING_BEHAVIOR_PINNED", **options)
    described = await p.call("DescribeWorkflowExecution", execution=p.execution())
    assert described.workflow_execution_info.versioning_info.deployment_version.build_id == "1"


async def memo_is_changed(p: Puppet) -> None:
    await p.start()
    await p.step(upsert_memo(a="x"))
    assert (await p.describe()).workflow_execution_info.memo.fields["a"].data == b'"x"'


async def eager_start(p: Puppet) -> None:
    """The first workflow task comes with the answer."""
    answer = await p.call("StartWorkflowExecution", **p.start_fields(request_eager_execution=True))
    await p.complete(answer.eager_workflow_task, complete_workflow())
    await p.closed()


async def no_eager_start(p: Puppet) -> None:
    answer = await p.call("StartWorkflowExecution", **p.start_fields(request_eager_execution=True))
    assert not answer.HasField("eager_workflow_task")
    await p.step(complete_workflow())


async def metadata_of_the_sdk(p: Puppet) -> None:
    """Kept in the completed event."""
    await p.start()
    await p.step(sdk_metadata={"lang_used_flags": [7], "sdk_name": "puppet"})
    events = (await p.history()).history.events
    (completed,) = [e for e in events if e.HasField("workflow_task_completed_event_attributes")]
    metadata = completed.workflow_task_completed_event_attributes.sdk_metadata
    assert (list(metadata.lang_used_flags), metadata.sdk_name) == ([7], "puppet")


async def counts_by_status(p: Puppet) -> None:
    await p.start()
    query = f"WorkflowId = '{p.workflow_id}' GROUP BY ExecutionStatus"
    (group,) = (await p.call("CountWorkflowExecutions", query=query)).groups
    assert (group.count, group.group_values[0].data) == (1, b'"Running"')


async def nexus_operation(p: Puppet) -> None:
    task = await nexus_scenarios.called(p)
    await nexus_scenarios.respond(p, task, start_operation={"sync_success": {"payload": payload("out")}})
    await p.has_event("nexus_operation_completed")


async def server_starts_workers(p: Puppet) -> None:
    """A version may say how its workers are started."""
    await p.call("CreateWorkerDeployment", deployment_name=p.id("d"), request_id=p.id("r"))
    refusal = await _with_provider(p, "aws-lambda")
    assert "invalid compute provider type" not in refusal.message


async def no_cloud_run(p: Puppet) -> None:
    await p.call("CreateWorkerDeployment", deployment_name=p.id("d"), request_id=p.id("r"))
    refusal = await _with_provider(p, "gcp-cloud-run")
    assert (refusal.code, refusal.message) == (
        "INVALID_ARGUMENT",
        "a: Could not instantiate compute provider with type 'gcp-cloud-run'",
    )


async def _with_provider(p: Puppet, kind: str) -> Any:
    return await p.refused(
        "CreateWorkerDeploymentVersion", deployment_version={"deployment_name": p.id("d"), "build_id": "1"},
        request_id=p.id("v"), compute_config={"scaling_groups": {"a": {"provider": {"type": kind}}}},
    )  # fmt: skip


# ---- of a namespace --------------------------------------------------------------------------------------------------


async def update_waited_for_to_its_end(p: Puppet) -> None:
    await p.start()
    asked = p.begin("UpdateWorkflowExecution", **p.update_fields("u", p.id("u")))
    await p.arrived()
    task = await p.workflow_task()
    request = task.messages[0]
    await p.complete(task, messages=[accept(request), finish(request.protocol_instance_id)])
    assert (await asked.answer()).outcome.HasField("success")


async def no_updates(p: Puppet) -> None:
    await p.start()
    assert (await p.refused("UpdateWorkflowExecution", **p.update_fields("u", "u"))).code == "PERMISSION_DENIED"
    start = {"start_workflow": {"namespace": "default", **p.start_fields(p.id("other"))}}
    update = {"update_workflow": {"namespace": "default", **p.update_fields("u", "u", workflow_id=p.id("other"))}}
    refusal = await p.refused("ExecuteMultiOperation", operations=[start, update])
    assert refusal.code == "PERMISSION_DENIED"
    assert (await p.refused("DescribeWorkflowExecution", execution=p.execution(p.id("other")))).code == "NOT_FOUND"


async def update_waited_for_until_accepted(p: Puppet) -> None:
    await p.start()
    asked = p.begin("UpdateWorkflowExecution", **p.update_fields("u", p.id("u"), stage="ACCEPTED"))
    await p.arrived()
    task = await p.workflow_task()
    await p.complete(task, messages=[accept(task.messages[0])])
    assert not (await asked.answer()).HasField("outcome")


async def no_waiting_until_accepted(p: Puppet) -> None:
    await p.start()
    refusal = await p.refused("UpdateWorkflowExecution", **p.update_fields("u", "u", stage="ACCEPTED"))
    assert refusal.code == "PERMISSION_DENIED"


async def problems_are_found(p: Puppet) -> None:
    """Workflow tasks that fail again and again are told of in lists."""
    await p.start()
    for _ in range(5):
        await p.fail_task(await p.workflow_task())
    assert await _reported(p) == 1


async def no_problems_are_found(p: Puppet) -> None:
    await p.start()
    for _ in range(5):
        await p.fail_task(await p.workflow_task())
    assert await _reported(p) == 0


async def _reported(p: Puppet) -> int:
    query = f"WorkflowId = '{p.workflow_id}' AND TemporalReportedProblems IS NOT NULL"
    return int((await p.call("CountWorkflowExecutions", query=query)).count)


def _heartbeat(p: Puppet) -> dict[str, Any]:
    return {"worker_instance_key": p.id("worker"), "worker_identity": "w", "task_queue": p.task_queue}


async def workers_are_known(p: Puppet) -> None:
    await p.call("RecordWorkerHeartbeat", identity="w", worker_heartbeat=[_heartbeat(p)])
    described = await p.call("DescribeWorker", worker_instance_key=p.id("worker"))
    assert described.worker_info.worker_heartbeat.task_queue == p.task_queue


async def no_workers_are_known(p: Puppet) -> None:
    """A heartbeat is taken, and leads to nothing."""
    await p.call("RecordWorkerHeartbeat", identity="w", worker_heartbeat=[_heartbeat(p)])
    assert (await p.refused("DescribeWorker", worker_instance_key=p.id("worker"))).code == "NOT_FOUND"


async def workflow_is_paused(p: Puppet) -> None:
    await p.start()
    await p.call("PauseWorkflowExecution", workflow_id=p.workflow_id, request_id=p.id("r"), reason="why")
    await p.call("UnpauseWorkflowExecution", workflow_id=p.workflow_id, request_id=p.id("s"), reason="why")
    await p.step(complete_workflow())


async def no_pause(p: Puppet) -> None:
    await p.start()
    refusal = await p.refused("PauseWorkflowExecution", workflow_id=p.workflow_id, request_id=p.id("r"))
    assert (refusal.code, refusal.message) == (
        "UNIMPLEMENTED",
        "workflow pause is not enabled for namespace: default",
    )


async def start_activity(p: Puppet, **fields: Any) -> None:
    await p.call(
        "StartActivityExecution", activity_id=p.id("a"), activity_type={"name": "Act"},
        task_queue={"name": p.task_queue}, start_to_close_timeout=seconds(30), request_id=p.id("start"), **fields,
    )  # fmt: skip


async def activity_without_a_workflow(p: Puppet) -> None:
    await start_activity(p)
    await p.complete_activity(await p.activity_task())
    assert (await p.call("PollActivityExecution", activity_id=p.id("a"))).outcome.HasField("result")


async def no_activity_without_a_workflow(p: Puppet) -> None:
    for rpc in (
        "StartActivityExecution",
        "DescribeActivityExecution",
        "ListActivityExecutions",
        "PauseActivityExecution",
    ):
        refusal = await p.refused(rpc)
        assert (refusal.code, refusal.message) == ("UNIMPLEMENTED", "Standalone activity is disabled")
    await no_batch_of_activities(p)


async def activity_is_delayed(p: Puppet) -> None:
    await start_activity(p, start_delay=seconds(3600))
    described = await p.call("DescribeActivityExecution", activity_id=p.id("a"))
    assert described.info.start_delay.seconds == 3600
    await p.arrived()
    assert await _waiting(p, p.task_queue, "TASK_QUEUE_TYPE_ACTIVITY") == 0


async def no_delay(p: Puppet) -> None:
    refusal = await p.refused("StartActivityExecution", start_delay=seconds(1))
    assert (refusal.code, refusal.message) == ("INVALID_ARGUMENT", "start_delay is not enabled for this namespace")


async def activity_is_paused(p: Puppet) -> None:
    await start_activity(p)
    await p.call("PauseActivityExecution", activity_id=p.id("a"), reason="why", request_id=p.id("pause"))
    await p.call("UnpauseActivityExecution", activity_id=p.id("a"), request_id=p.id("unpause"))
    await p.complete_activity(await p.activity_task())


async def no_commands_to_activities(p: Puppet) -> None:
    for rpc in ("PauseActivityExecution", "UnpauseActivityExecution", "ResetActivityExecution"):
        refusal = await p.refused(rpc, activity_id=p.id("a"))
        assert refusal.message == "Standalone activity operator commands are disabled"
    # Those of workflows have them all the same.
    assert (await p.refused("PauseActivityExecution", activity_id="a", workflow_id=p.workflow_id)).code == "NOT_FOUND"


async def batch_over_activities(p: Puppet) -> None:
    await start_activity(p)
    await p.call(
        "StartBatchOperation", job_id=p.id("job"), reason="why", terminate_activities_operation={"identity": "me"},
        target_executions=[{"type": "EXECUTION_TYPE_ACTIVITY", "business_id": p.id("a")}],
    )  # fmt: skip
    assert (await p.call("PollActivityExecution", activity_id=p.id("a"))).outcome.HasField("failure")


async def no_batch_of_activities(p: Puppet) -> None:
    operation = "CancelActivitiesOperation"
    refusal = await p.refused("StartBatchOperation", cancel_activities_operation={})
    assert (refusal.code, refusal.message) == (
        "INVALID_ARGUMENT",
        f"The operation type *workflowservice.StartBatchOperationRequest_{operation} is not supported for this namespace",
    )


async def polls_end_with_their_worker(p: Puppet) -> None:
    poll = p.begin("PollWorkflowTaskQueue", deadline=60.0, worker_instance_key=p.id("w"), **p.poll_fields())
    await p.arrived()
    await p.call("ShutdownWorker", worker_instance_key=p.id("w"), identity="worker", reason="end")
    assert not (await poll.answer()).task_token


async def polls_outlive_their_worker(p: Puppet) -> None:
    poll = p.begin("PollWorkflowTaskQueue", deadline=60.0, worker_instance_key=p.id("w"), **p.poll_fields())
    await p.arrived()
    await p.call("ShutdownWorker", worker_instance_key=p.id("w"), identity="worker", reason="end")
    await p.arrived()
    assert not poll.done()
    await p.start()
    assert (await poll.answer()).task_token


async def pollers_are_advised(p: Puppet) -> None:
    """A backlog asks for more polls."""
    for number in range(5):
        await p.start(p.id(f"w{number}"))
    await asyncio.sleep(1.0)  # a backlog is one when it has stood for a while
    fields: Any = {"worker_instance_key": p.id("w"), **p.poll_fields()}
    answers = [await p.call("PollWorkflowTaskQueue", **fields) for _ in range(3)]
    assert any(a.poller_scaling_decision.poll_request_delta_suggestion > 0 for a in answers)


async def pollers_choose_themselves(p: Puppet) -> None:
    """The server only says that workers are to be advised; what it advises is the same."""
    capabilities = (await p.call("DescribeNamespace")).namespace_info.capabilities
    assert capabilities.poller_autoscaling


async def worker_is_told_to_cancel(p: Puppet) -> None:
    control = f"/temporal-sys/worker-commands/default/{p.id('worker')}"
    await p.start()
    await p.step(activity("a", p.task_queue))
    await p.call("PollActivityTaskQueue", worker_control_task_queue=control, **p.poll_fields())
    await p.terminate()
    queue = {"name": control, "kind": "TASK_QUEUE_KIND_WORKER_COMMANDS"}
    task = await p.call("PollNexusTaskQueue", task_queue=queue, identity="worker")
    assert task.request.start_operation.operation == "ExecuteCommands"


async def worker_is_told_nothing(p: Puppet) -> None:
    control = p.id("control")
    await p.start()
    await p.step(activity("a", p.task_queue))
    await p.call("PollActivityTaskQueue", worker_control_task_queue=control, **p.poll_fields())
    await p.terminate()
    await p.arrived()
    assert await _waiting(p, control, "TASK_QUEUE_TYPE_NEXUS") == 0


async def _waiting(p: Puppet, queue: str, kind: str) -> int:
    """How many tasks wait in the queue."""
    described = await p.call("DescribeTaskQueue", task_queue={"name": queue}, task_queue_type=kind, report_stats=True)
    return int(described.stats.approximate_backlog_count)


async def nexus_operation_without_a_workflow(p: Puppet) -> None:
    await nexus_scenarios.endpoint(p)
    await p.call(
        "StartNexusOperationExecution", operation_id=p.id("o"), endpoint=p.id("endpoint"), service="svc",
        operation="op", request_id=p.id("r"), schedule_to_close_timeout=seconds(60),
    )  # fmt: skip
    task = await nexus_scenarios.nexus_task(p)
    await nexus_scenarios.respond(p, task, start_operation={"sync_success": {"payload": payload("out")}})
    assert (await p.call("PollNexusOperationExecution", operation_id=p.id("o"))).HasField("result")


async def no_nexus_operation_without_a_workflow(p: Puppet) -> None:
    for rpc in ("StartNexusOperationExecution", "DescribeNexusOperationExecution", "ListNexusOperationExecutions"):
        refusal = await p.refused(rpc)
        assert (refusal.code, refusal.message) == ("UNIMPLEMENTED", "Standalone Nexus operation is disabled")


async def callback_of_an_update(p: Puppet) -> None:
    assert await _callbacks_of_an_update(p) == 1


async def no_callback_of_an_update(p: Puppet) -> None:
    """The update goes on without it."""
    assert await _callbacks_of_an_update(p) == 0


async def _callbacks_of_an_update(p: Puppet) -> int:
    await p.start()
    fields = p.update_fields("u", p.id("u"))
    fields["request"]["completion_callbacks"] = [{"nexus": {"url": "http://127.0.0.1:1/callback"}}]
    fields["request"]["request_id"] = p.id("r")
    asked = p.begin("UpdateWorkflowExecution", **fields)
    await p.arrived()
    task = await p.workflow_task()
    request = task.messages[0]
    await p.complete(task, messages=[accept(request), finish(request.protocol_instance_id)])
    await asked.answer()
    return len((await p.describe()).callbacks)


async def no_pages_of_a_completion(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    refusal = await p.refused(
        "RespondWorkflowTaskCompleted", task_token=task.task_token, identity="w", intermediate_page=True
    )
    assert refusal.code == "FAILED_PRECONDITION"


async def pages_of_a_completion(p: Puppet) -> None:
    """Put together, they are one answer; together they may not be larger than the limit that is told."""
    await p.start()
    task = await p.workflow_task()
    answer: dict[str, Any] = {"task_token": task.task_token, "identity": "w"}
    rpc = "RespondWorkflowTaskCompleted"
    await p.call(rpc, **answer, intermediate_page=True, page_number=0, commands=[upsert_memo(a="x")])
    await p.call(rpc, **answer, page_number=1, commands=[complete_workflow()])
    await p.closed()
    assert (await p.describe()).workflow_execution_info.memo.fields["a"].data == b'"x"'


# ---- limits ----------------------------------------------------------------------------------------------------------


async def payloads_up_to_the_limit(p: Puppet) -> None:
    limit = (await p.call("DescribeNamespace")).namespace_info.limits.blob_size_limit_error
    start = p.start_fields()
    over = {"payloads": [{"data": b"x" * limit}]}
    assert (await p.refused("StartWorkflowExecution", **start, input=over)).code == "INVALID_ARGUMENT"
    await p.call("StartWorkflowExecution", **start, input={"payloads": [{"data": b"x" * (limit - 100)}]})


async def memos_up_to_the_limit(p: Puppet) -> None:
    limit = (await p.call("DescribeNamespace")).namespace_info.limits.memo_size_limit_error
    start = p.start_fields()
    over = {"fields": {"a": {"data": b"x" * limit}}}
    assert (await p.refused("StartWorkflowExecution", **start, memo=over)).code == "INVALID_ARGUMENT"
    await p.call("StartWorkflowExecution", **start, memo={"fields": {"a": {"data": b"x" * (limit - 100)}}})


async def _until(p: Puppet, rpc: str, **fields: Any) -> None:
    """Call until it is not refused: what it is about is still being made."""
    for _ in range(1000):
        if await p.attempt(rpc, **fields) is not None:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{rpc} is refused for ever")
