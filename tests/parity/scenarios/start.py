"""StartWorkflowExecution: what the first event says, and who may start when the id is taken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.parity.commands import complete_workflow, fail_workflow
from tests.parity.puppet import attribute, cases, payload, payloads, seconds
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

REUSE = "WORKFLOW_ID_REUSE_POLICY_"
CONFLICT = "WORKFLOW_ID_CONFLICT_POLICY_"


@scenario
async def plain(p: Puppet) -> None:
    await p.start()
    await p.describe()
    await p.step(complete_workflow())
    await p.history()
    await p.describe()


@scenario
async def everything_given(p: Puppet) -> None:
    await p.start(
        input=payloads("a", "b"),
        workflow_execution_timeout=seconds(100),
        workflow_run_timeout=seconds(50),
        workflow_task_timeout=seconds(7),
        retry_policy={
            "initial_interval": seconds(2),
            "backoff_coefficient": 3,
            "maximum_attempts": 4,
            "non_retryable_error_types": ["Fatal"],
        },
        memo={"fields": {"m": payload("memo")}},
        header={"fields": {"h": payload("header")}},
        user_metadata={"summary": payload("summary"), "details": payload("details")},
        priority={"priority_key": 2, "fairness_key": "f", "fairness_weight": 1.5},
    )
    await p.describe()
    await p.step(complete_workflow("r"))
    await p.history()
    await p.describe()


@scenario
async def timeouts_are_cut_to_each_other(p: Puppet) -> None:
    await p.start(
        workflow_execution_timeout=seconds(10), workflow_run_timeout=seconds(100), workflow_task_timeout=seconds(60)
    )
    await p.history()
    await p.describe()
    await p.terminate()


@scenario
async def long_task_timeout_is_cut_to_the_limit(p: Puppet) -> None:
    await p.start(workflow_task_timeout=seconds(1000))
    await p.history()
    await p.terminate()


@scenario
async def same_request_id_gives_same_run(p: Puppet) -> None:
    fields = p.start_fields(request_id="one")
    first = await p.call("StartWorkflowExecution", **fields)
    second = await p.call("StartWorkflowExecution", **fields)
    p.note("same run", first.run_id == second.run_id)
    await p.step(complete_workflow())
    await p.attempt("StartWorkflowExecution", **fields)
    await p.history()


@scenario
async def id_taken_by_running(p: Puppet) -> None:
    await p.start()
    await p.refused("StartWorkflowExecution", **p.start_fields())
    await p.refused("StartWorkflowExecution", **p.start_fields(workflow_id_reuse_policy=REUSE + "ALLOW_DUPLICATE"))
    await p.refused("StartWorkflowExecution", **p.start_fields(workflow_id_conflict_policy=CONFLICT + "FAIL"))
    await p.terminate()


@scenario
async def conflict_use_existing(p: Puppet) -> None:
    run = await p.start()
    again = await p.start(workflow_id_conflict_policy=CONFLICT + "USE_EXISTING")
    p.note("same run", run == again)
    await p.history()
    await p.describe()
    await p.terminate()


@scenario
async def conflict_use_existing_attaches_request(p: Puppet) -> None:
    await p.start()
    await p.start(
        request_id="attached",
        workflow_id_conflict_policy=CONFLICT + "USE_EXISTING",
        on_conflict_options={"attach_request_id": True, "attach_completion_callbacks": True, "attach_links": True},
    )
    await p.history()
    await p.describe()
    await p.terminate()


@scenario
async def conflict_terminate_existing(p: Puppet) -> None:
    first = await p.start()
    second = await p.start(workflow_id_conflict_policy=CONFLICT + "TERMINATE_EXISTING")
    await p.history(run_id=first)
    await p.history(run_id=second)
    await p.describe(run_id=first)
    await p.terminate()


@scenario
async def reuse_terminate_if_running(p: Puppet) -> None:
    first = await p.start()
    await p.start(workflow_id_reuse_policy=REUSE + "TERMINATE_IF_RUNNING")
    await p.history(run_id=first)
    await p.history()
    await p.terminate()


@scenario
async def policies_that_exclude_each_other(p: Puppet) -> None:
    await p.refused(
        "StartWorkflowExecution",
        **p.start_fields(
            workflow_id_reuse_policy=REUSE + "TERMINATE_IF_RUNNING",
            workflow_id_conflict_policy=CONFLICT + "USE_EXISTING",
        ),
    )
    await p.refused(
        "StartWorkflowExecution",
        **p.start_fields(
            workflow_id_reuse_policy=REUSE + "REJECT_DUPLICATE",
            workflow_id_conflict_policy=CONFLICT + "TERMINATE_EXISTING",
        ),
    )


@scenario
async def reuse_after_completion(p: Puppet) -> None:
    await p.start()
    await p.step(complete_workflow())
    await p.refused("StartWorkflowExecution", **p.start_fields(workflow_id_reuse_policy=REUSE + "REJECT_DUPLICATE"))
    await p.refused(
        "StartWorkflowExecution", **p.start_fields(workflow_id_reuse_policy=REUSE + "ALLOW_DUPLICATE_FAILED_ONLY")
    )
    await p.start(workflow_id_reuse_policy=REUSE + "ALLOW_DUPLICATE")
    await p.history()
    await p.terminate()


@scenario
async def reuse_after_failure(p: Puppet) -> None:
    await p.start()
    await p.step(fail_workflow())
    await p.refused("StartWorkflowExecution", **p.start_fields(workflow_id_reuse_policy=REUSE + "REJECT_DUPLICATE"))
    await p.start(workflow_id_reuse_policy=REUSE + "ALLOW_DUPLICATE_FAILED_ONLY")
    await p.terminate()
    await p.start(workflow_id_reuse_policy=REUSE + "ALLOW_DUPLICATE_FAILED_ONLY")
    await p.terminate()


@slow_scenario
async def start_delay(p: Puppet) -> None:
    await p.start(workflow_start_delay=seconds(1))
    await p.history()
    await p.describe()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def signal_does_not_end_start_delay(p: Puppet) -> None:
    await p.start(workflow_start_delay=seconds(3600))
    await p.signal("s")
    await p.history()
    await p.terminate()


@scenario
async def cron_sets_first_backoff(p: Puppet) -> None:
    # A date that does not come soon; how far off it is depends on the clock and is not compared.
    await p.start(cron_schedule="0 0 1 1 *")
    answer = await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution())
    started = answer.history.events[0].workflow_execution_started_event_attributes
    p.note("backs off", started.first_workflow_task_backoff.seconds > 0)
    p.note("schedule", started.cron_schedule)
    p.note("events", len(answer.history.events))
    await p.terminate()


@slow_scenario
async def cron_runs_again(p: Puppet) -> None:
    first = await p.start(cron_schedule="@every 1s", input=payloads("in"))
    await p.step(complete_workflow("first"))
    await p.closed(run_id=first)
    task = await p.workflow_task(record=False)
    second = task.workflow_execution.run_id
    started = task.history.events[0].workflow_execution_started_event_attributes
    p.note("initiator", started.initiator)
    p.note("last result", str(started.last_completion_result))
    p.note("continues", started.continued_execution_run_id)
    await p.complete(task, fail_workflow("second"))
    await p.closed(run_id=second)
    task = await p.workflow_task(record=False)
    started = task.history.events[0].workflow_execution_started_event_attributes
    p.note("initiator", started.initiator)
    p.note("last failure", str(started.continued_failure))
    p.note("last result", str(started.last_completion_result))
    await p.terminate()


@slow_scenario
async def retry_policy_starts_again(p: Puppet) -> None:
    first = await p.start(retry_policy={"initial_interval": seconds(1), "maximum_attempts": 2}, input=payloads("in"))
    await p.step(fail_workflow("one"))
    await p.history(run_id=first)
    await p.history()
    task = await p.step(fail_workflow("two"))
    await p.history(run_id=task.workflow_execution.run_id)
    await p.describe()


@scenario
async def retry_policy_stops_at_non_retryable(p: Puppet) -> None:
    await p.start(retry_policy={"initial_interval": seconds(1), "non_retryable_error_types": ["Fatal"]})
    await p.step(fail_workflow("one", kind="Fatal"))
    await p.history()
    await p.start()
    await p.step(fail_workflow("two", non_retryable=True))
    await p.history()


@slow_scenario
async def run_timeout(p: Puppet) -> None:
    await p.start(workflow_run_timeout=seconds(1))
    await p.closed()
    await p.history()
    await p.describe()


@slow_scenario
async def execution_timeout(p: Puppet) -> None:
    await p.start(workflow_execution_timeout=seconds(1))
    await p.step()
    await p.closed()
    await p.history()


@slow_scenario
async def run_timeout_is_retried(p: Puppet) -> None:
    first = await p.start(
        workflow_run_timeout=seconds(1), retry_policy={"initial_interval": seconds(1), "maximum_attempts": 2}
    )
    await p.closed(run_id=first)
    await p.history()
    await p.terminate()


@scenario
async def bad_requests(p: Puppet) -> None:
    for fields in cases(
        {"workflow_id": ""},
        {"workflow_id": "x" * 1001},
        {"workflow_type": {}},
        {"workflow_type": {"name": "x" * 1001}},
        {"task_queue": {}},
        {"task_queue": {"name": "x" * 1001}},
        {"task_queue": {"name": "/_sys/x"}},
        {"request_id": "x" * 1001},
        {"namespace": ""},
        {"namespace": "nowhere"},
        {"workflow_run_timeout": seconds(-1)},
        {"workflow_execution_timeout": seconds(-1)},
        {"workflow_task_timeout": seconds(-1)},
        {"workflow_start_delay": seconds(-1)},
        {"workflow_start_delay": seconds(1), "cron_schedule": "* * * * *"},
        {"cron_schedule": "every now and then"},
        {"retry_policy": {"initial_interval": seconds(-1)}},
        {"retry_policy": {"backoff_coefficient": 0.5}},
        {"retry_policy": {"maximum_attempts": -1}},
        {"retry_policy": {"initial_interval": seconds(5), "maximum_interval": seconds(1)}},
        {"search_attributes": {"indexed_fields": {"NoSuchAttribute": attribute("1", "Int")}}},
        {"search_attributes": {"indexed_fields": {"StartTime": attribute('"2020-01-01T00:00:00Z"', "Datetime")}}},
        {"request_eager_execution": True, "workflow_start_delay": seconds(3)},
    ):
        await p.attempt("StartWorkflowExecution", **{**p.start_fields("bad"), **fields})


@scenario
async def eager_task_comes_with_the_answer(p: Puppet) -> None:
    answer = await p.call("StartWorkflowExecution", **p.start_fields(request_eager_execution=True))
    if answer.eager_workflow_task.task_token:
        await p.complete(answer.eager_workflow_task, complete_workflow())
    await p.history()


@scenario
async def two_race_for_one_id(p: Puppet) -> None:
    calls = [p.begin("StartWorkflowExecution", record=False, **p.start_fields()) for _ in range(4)]
    outcomes = await asyncio.gather(*(call.answer() for call in calls), return_exceptions=True)
    p.note("started", sum(not isinstance(outcome, Exception) for outcome in outcomes))
    p.note("refused", sorted(getattr(outcome, "code", "") for outcome in outcomes if isinstance(outcome, Exception)))
    await p.terminate()
