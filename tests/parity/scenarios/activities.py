"""Activities: time-outs, retries, heartbeats, cancellation, by token and by id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity.commands import activity, cancel_activity, complete_workflow
from tests.parity.puppet import payload, payloads, seconds
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

ONCE = {"maximum_attempts": 1}


@scenario
async def completes(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue, input=payloads("in"), header={"fields": {"h": payload("h")}}))
    await p.describe()
    task = await p.activity_task()
    await p.describe()
    await p.complete_activity(task)
    await p.step(complete_workflow())
    await p.history()


@scenario
async def completion_without_result(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue))
    task = await p.activity_task()
    await p.call("RespondActivityTaskCompleted", task_token=task.task_token, identity="worker")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def fails_for_good(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue, retry_policy=ONCE))
    await p.fail_activity(await p.activity_task())
    await p.step(complete_workflow())
    await p.history()


@scenario
async def fails_non_retryable(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue))
    await p.fail_activity(await p.activity_task(), non_retryable=True)
    await p.step(complete_workflow())
    await p.history()


@scenario
async def fails_with_non_retryable_type(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue, retry_policy={"non_retryable_error_types": ["Fatal"]}))
    await p.fail_activity(await p.activity_task(), kind="Fatal")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def is_retried(p: Puppet) -> None:
    await p.start()
    await p.step(
        activity("a", p.task_queue, retry_policy={"initial_interval": seconds(0.05), "backoff_coefficient": 1})
    )
    await p.fail_activity(await p.activity_task(), "one")
    await p.fail_activity(await p.activity_task(), "two")
    await p.run_activity()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def waits_for_its_retry(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue, retry_policy={"initial_interval": seconds(5)}))
    await p.fail_activity(await p.activity_task(), "one")
    await p.describe()
    await p.terminate()
    await p.history()


@scenario
async def attempts_run_out(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue, retry_policy={"initial_interval": seconds(0.05), "maximum_attempts": 2}))
    await p.fail_activity(await p.activity_task(), "one")
    await p.fail_activity(await p.activity_task(), "two")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def next_retry_delay_of_the_failure(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue, retry_policy={"initial_interval": seconds(20)}))
    await p.fail_activity(await p.activity_task(), "one", next_retry_delay=seconds(0.05))
    await p.run_activity()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def no_time_for_a_retry(p: Puppet) -> None:
    await p.start()
    await p.step(
        activity(
            "a", p.task_queue, schedule_to_close_timeout=seconds(5), retry_policy={"initial_interval": seconds(60)}
        )
    )
    await p.fail_activity(await p.activity_task(), "one")
    await p.step(complete_workflow())
    await p.history()


async def _times_out(p: Puppet, *, start: bool, **fields: Any) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue, **fields))
    if start:
        task = await p.activity_task()
    await p.step(complete_workflow())
    await p.history()
    if start:
        await p.refused("RespondActivityTaskCompleted", task_token=task.task_token)


@slow_scenario
async def schedule_to_start_timeout(p: Puppet) -> None:
    await _times_out(p, start=False, schedule_to_start_timeout=seconds(1))


@slow_scenario
async def schedule_to_close_timeout(p: Puppet) -> None:
    await _times_out(p, start=False, schedule_to_close_timeout=seconds(1))


@slow_scenario
async def schedule_to_close_timeout_when_started(p: Puppet) -> None:
    await _times_out(p, start=True, schedule_to_close_timeout=seconds(1))


@slow_scenario
async def start_to_close_timeout(p: Puppet) -> None:
    await _times_out(p, start=True, start_to_close_timeout=seconds(1), retry_policy=ONCE)


@slow_scenario
async def heartbeat_timeout(p: Puppet) -> None:
    await _times_out(p, start=True, heartbeat_timeout=seconds(1), start_to_close_timeout=seconds(20), retry_policy=ONCE)


@slow_scenario
async def start_to_close_timeout_is_retried(p: Puppet) -> None:
    await p.start()
    retry = {"initial_interval": seconds(0.05), "maximum_attempts": 2}
    await p.step(activity("a", p.task_queue, start_to_close_timeout=seconds(1), retry_policy=retry))
    await p.activity_task()
    await p.activity_task()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def heartbeat_details_reach_the_retry(p: Puppet) -> None:
    await p.start()
    await p.step(
        activity("a", p.task_queue, heartbeat_timeout=seconds(20), retry_policy={"initial_interval": seconds(0.05)})
    )
    task = await p.activity_task()
    await p.call("RecordActivityTaskHeartbeat", task_token=task.task_token, details=payloads("half"), identity="worker")
    await p.describe()
    await p.fail_activity(task, "one")
    await p.run_activity()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def failure_brings_heartbeat_details(p: Puppet) -> None:
    await p.start()
    await p.step(
        activity("a", p.task_queue, heartbeat_timeout=seconds(20), retry_policy={"initial_interval": seconds(0.05)})
    )
    task = await p.activity_task()
    await p.call(
        "RespondActivityTaskFailed",
        task_token=task.task_token,
        identity="worker",
        failure={"message": "x", "application_failure_info": {"type": "T"}},
        last_heartbeat_details=payloads("last"),
    )
    await p.run_activity()
    await p.terminate()


@scenario
async def cancelled_before_start(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue))
    await p.signal("s")
    await p.step(cancel_activity(5))
    await p.history()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def cancelled_in_the_same_completion(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue), cancel_activity(5))
    await p.step(complete_workflow())
    await p.history()


@scenario
async def cancelled_while_running(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue, heartbeat_timeout=seconds(20)))
    task = await p.activity_task()
    await p.refused("RespondActivityTaskCanceled", task_token=task.task_token, details=payloads("early"))
    await p.signal("s")
    await p.step(cancel_activity(5))
    await p.describe()
    await p.call("RecordActivityTaskHeartbeat", task_token=task.task_token)
    await p.call(
        "RespondActivityTaskCanceled", task_token=task.task_token, details=payloads("stopped"), identity="worker"
    )
    await p.step(complete_workflow())
    await p.history()


@scenario
async def cancel_request_ignored(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue))
    task = await p.activity_task()
    await p.signal("s")
    await p.step(cancel_activity(5))
    await p.complete_activity(task, "anyway")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def cancel_request_ends_retries(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue, retry_policy={"initial_interval": seconds(0.05)}))
    task = await p.activity_task()
    await p.signal("s")
    await p.step(cancel_activity(5))
    await p.fail_activity(task, "one")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def cancelled_while_waiting_for_retry(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue, retry_policy={"initial_interval": seconds(20)}))
    await p.fail_activity(await p.activity_task(), "one")
    await p.signal("s")
    await p.step(cancel_activity(5))
    await p.step(complete_workflow())
    await p.history()


@scenario
async def by_id(p: Puppet) -> None:
    await p.start()
    await p.step(*(activity(name, p.task_queue, retry_policy=ONCE) for name in "abc"))
    for _ in "abc":
        await p.activity_task(record=False)
    target: dict[str, Any] = {"workflow_id": p.workflow_id, "identity": "worker"}
    await p.call("RecordActivityTaskHeartbeatById", activity_id="a", details=payloads("x"), **target)
    await p.refused("RespondActivityTaskCanceledById", activity_id="a", **target)
    await p.call("RespondActivityTaskCompletedById", activity_id="a", result=payloads("r"), **target)
    await p.refused("RespondActivityTaskCompletedById", activity_id="a", **target)
    await p.call("RespondActivityTaskFailedById", activity_id="b", failure={"message": "m"}, **target)
    await p.step(cancel_activity(7))
    await p.call("RespondActivityTaskCanceledById", activity_id="c", **target)
    await p.step(complete_workflow())
    await p.history()
    await p.refused("RespondActivityTaskCompletedById", activity_id="c", **target)


@scenario
async def by_id_before_it_started(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue))
    await p.attempt("RespondActivityTaskCompletedById", workflow_id=p.workflow_id, activity_id="a", identity="worker")
    await p.history()
    await p.terminate()


@scenario
async def by_id_wrong(p: Puppet) -> None:
    for rpc in (
        "RespondActivityTaskCompletedById",
        "RespondActivityTaskFailedById",
        "RespondActivityTaskCanceledById",
        "RecordActivityTaskHeartbeatById",
    ):
        await p.refused(rpc)
        await p.refused(rpc, workflow_id="nobody")
        await p.refused(rpc, workflow_id="nobody", activity_id="a")
        await p.refused(rpc, workflow_id="nobody", run_id="no uuid", activity_id="a")


@scenario
async def token_used_twice(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue))
    task = await p.run_activity()
    for rpc in (
        "RespondActivityTaskCompleted",
        "RespondActivityTaskFailed",
        "RespondActivityTaskCanceled",
        "RecordActivityTaskHeartbeat",
    ):
        await p.refused(rpc, task_token=task.task_token)
    await p.terminate()
    for rpc in ("RespondActivityTaskCompleted", "RecordActivityTaskHeartbeat"):
        await p.refused(rpc, task_token=task.task_token)


@scenario
async def workflow_closes_under_it(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue))
    task = await p.activity_task()
    await p.terminate()
    await p.refused("RecordActivityTaskHeartbeat", task_token=task.task_token)
    await p.refused("RespondActivityTaskCompleted", task_token=task.task_token)
    await p.history()


@scenario
async def timeouts_fill_each_other(p: Puppet) -> None:
    await p.start(workflow_run_timeout=seconds(100))
    cases: list[dict[str, Any]] = [
        {"schedule_to_close_timeout": seconds(10)},
        {"schedule_to_close_timeout": None, "start_to_close_timeout": seconds(10)},
        {
            "schedule_to_close_timeout": seconds(10),
            "start_to_close_timeout": seconds(20),
            "schedule_to_start_timeout": seconds(30),
            "heartbeat_timeout": seconds(40),
        },
        {"schedule_to_close_timeout": seconds(1000)},
    ]
    await p.step(*(activity(str(number), p.task_queue, **case) for number, case in enumerate(cases)))
    await p.history()
    await p.terminate()


@scenario
async def bad_activities(p: Puppet) -> None:
    queue = p.task_queue
    for bad in (
        activity("", queue),
        activity("x" * 1001, queue),
        activity("a", queue, activity_type={}),
        activity("a", queue, schedule_to_close_timeout=None),
        activity("a", queue, schedule_to_close_timeout=seconds(-1)),
        activity("a", queue, heartbeat_timeout=seconds(-1)),
        activity("a", "x" * 1001),
        activity("a", queue, retry_policy={"maximum_attempts": -1}),
        activity("a", queue, retry_policy={"backoff_coefficient": 0.5}),
        cancel_activity(99),
        cancel_activity(0),
    ):
        await p.start()
        await p.bad_step(bad)
        await p.history()
        await p.terminate()


@scenario
async def same_id_twice(p: Puppet) -> None:
    await p.start()
    await p.bad_step(activity("a", p.task_queue), activity("a", p.task_queue))
    await p.history()
    await p.terminate()


@scenario
async def without_a_queue(p: Puppet) -> None:
    await p.start()
    await p.bad_step(activity("a", ""))
    await p.history()
    await p.terminate()


@scenario
async def eager_activity_comes_with_the_answer(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    answer = await p.complete(task, activity("a", p.task_queue, request_eager_execution=True))
    if answer.activity_tasks:
        await p.complete_activity(answer.activity_tasks[0])
    else:
        await p.run_activity()
    await p.step(complete_workflow())
    await p.history()
