"""Commands to workers over their control queue: which activities' workers are told to cancel them, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.nexusservices.workerservice.v1 import request_response_pb2 as commands_pb

from tests.parity.commands import activity, cancel_activity, complete_workflow, continue_as_new
from tests.parity.puppet import cases, seconds
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

KIND = "TASK_QUEUE_KIND_WORKER_COMMANDS"
_SCHEDULED_EVENT = 5


def control_queue(p: Puppet, name: str = "worker") -> str:
    return f"/temporal-sys/worker-commands/default/{p.id(name)}"


async def taken(p: Puppet, name: str = "worker") -> bytes:
    """A worker with a control queue takes an activity; the activity's task token."""
    task = await p.call(
        "PollActivityTaskQueue", record=False, worker_instance_key=p.id(name),
        worker_control_task_queue=control_queue(p, name), **p.poll_fields(),
    )  # fmt: skip
    assert task.task_token, "the poll ended without a task"
    return bytes(task.task_token)


async def told(p: Puppet, *tokens: bytes, name: str = "worker", **poll: Any) -> Any:
    """Poll the control queue, and note what the worker is told; `tokens`: of its activities."""
    fields = {**p.poll_fields(), "task_queue": {"name": control_queue(p, name), "kind": KIND}, **poll}
    for _ in range(30):
        task = await p.call("PollNexusTaskQueue", record=False, deadline=10.0, **fields)
        if task.task_token:
            break
    assert task.task_token, "no command came"
    start = task.request.start_operation
    commands = commands_pb.ExecuteCommandsRequest.FromString(start.payload.data).commands
    p.note("names of headers", sorted(task.request.header))
    found = [command.cancel_activity.task_token for command in commands]
    p.note("activities", sorted(tokens.index(token) if token in tokens else -1 for token in found))
    task.request.header.clear()
    start.payload.data = b""
    p.note("request", p.normalised(task.request))
    await p.call(
        "RespondNexusTaskCompleted", task_token=task.task_token, identity="worker",
        response={"start_operation": {"sync_success": {}}},
    )  # fmt: skip
    return task


def longer(p: Puppet, *names: str) -> list[dict[str, Any]]:
    return [
        activity(name, p.task_queue, start_to_close_timeout=seconds(300), schedule_to_close_timeout=seconds(300))
        for name in names
    ]


async def working(p: Puppet, **fields: Any) -> bytes:
    """A workflow whose activity a worker has; the activity's token."""
    await p.start(**fields)
    await p.step(*longer(p, "a"))
    return await taken(p)


@scenario
async def workflow_cancels_its_activities(p: Puppet) -> None:
    await p.start()
    await p.step(*longer(p, "a", "b", "c"))
    tokens = [await taken(p), await taken(p), await taken(p, "another")]
    await p.signal("go")
    await p.step(*(cancel_activity(_SCHEDULED_EVENT + index) for index in range(3)))
    await told(p, *tokens)
    await told(p, *tokens, name="another")
    await p.terminate()


@scenario
async def run_is_terminated(p: Puppet) -> None:
    token = await working(p)
    await p.terminate()
    await told(p, token)


@slow_scenario
async def run_times_out(p: Puppet) -> None:
    token = await working(p, workflow_run_timeout=seconds(2))
    await p.closed()
    await told(p, token)


@scenario
async def run_is_reset(p: Puppet) -> None:
    token = await working(p)
    await p.call(
        "ResetWorkflowExecution",
        workflow_execution=p.execution(),
        workflow_task_finish_event_id=4,
        request_id=p.id("r"),
    )
    await told(p, token)
    await p.terminate()


@scenario
async def run_completes(p: Puppet) -> None:
    token = await working(p)
    await p.signal("go")
    await p.step(complete_workflow())
    await told(p, token)


@slow_scenario
async def run_continues_as_new(p: Puppet) -> None:
    token = await working(p)
    await p.signal("go")
    await p.step(continue_as_new(p.task_queue))
    await told(p, token)
    await p.terminate()


@scenario
async def activity_was_started_eagerly(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    (command,) = longer(p, "a")
    attributes = command["schedule_activity_task_command_attributes"]
    attributes.update(request_eager_execution=True)
    answer = await p.call(
        "RespondWorkflowTaskCompleted", record=False, task_token=task.task_token, commands=[command], identity="worker",
        worker_control_task_queue=control_queue(p),
    )  # fmt: skip
    token = answer.activity_tasks[0].task_token
    await p.terminate()
    await told(p, token)


@scenario
async def workers_of_versions_poll_like_any(p: Puppet) -> None:
    """The queue is one worker's, whatever its version."""
    token = await working(p)
    await p.terminate()
    await told(p, token, worker_version_capabilities={"build_id": p.id("build"), "use_versioning": True})


@scenario
async def queues_of_that_kind(p: Puppet) -> None:
    """They hold Nexus tasks alone."""
    queue = {"name": control_queue(p), "kind": KIND}
    both = {**queue, "normal_name": "x"}
    for rpc in ("PollWorkflowTaskQueue", "PollActivityTaskQueue"):
        await p.refused(rpc, task_queue=queue, identity="worker")
        await p.refused(rpc, task_queue=both, identity="worker")
        await p.refused(rpc, task_queue={"name": p.task_queue, "normal_name": "x"}, identity="worker")
    await p.refused("PollNexusTaskQueue", task_queue=both, identity="worker")
    await p.refused("ListTaskQueuePartitions", task_queue=queue)
    await p.refused("ListTaskQueuePartitions", task_queue={"name": p.task_queue, "normal_name": "x"})
    nexus = "TASK_QUEUE_TYPE_NEXUS"
    for fields in cases(
        {},
        {"task_queue_type": "TASK_QUEUE_TYPE_ACTIVITY"},
        {"task_queue": both},
        {"task_queue_type": nexus},
        {"task_queue_type": nexus, "report_stats": True},
        {"api_mode": "DESCRIBE_TASK_QUEUE_MODE_ENHANCED", "report_pollers": True},
        {"api_mode": "DESCRIBE_TASK_QUEUE_MODE_ENHANCED", "task_queue_types": [nexus]},
        {"api_mode": "DESCRIBE_TASK_QUEUE_MODE_ENHANCED", "task_queue": {"name": p.task_queue, "normal_name": "x"}},
    ):
        await p.attempt("DescribeTaskQueue", **{"task_queue": queue, **fields})


@scenario
async def configuration_of_workers(p: Puppet) -> None:
    """The other half of what the capability promises, which no server does."""
    await p.refused("FetchWorkerConfig")
    await p.refused("UpdateWorkerConfig")
    await p.refused("UpdateWorkerConfig", worker_config={"workflow_cache_size": 1})
    await p.refused("UpdateWorkerConfig", worker_config={"workflow_cache_size": 1}, namespace="nowhere")
