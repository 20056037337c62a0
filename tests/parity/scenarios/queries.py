"""Queries: with their own task, with a workflow task, on closed runs, refused, failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity.commands import complete_workflow, timer
from tests.parity.puppet import failure, payload, payloads, seconds
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Pending, Puppet

REJECT = "QUERY_REJECT_CONDITION_"


def _ask(p: Puppet, kind: str = "state", **fields: Any) -> Pending:
    return p.begin(
        "QueryWorkflow",
        execution=p.execution(),
        query={"query_type": kind, "query_args": payloads("q"), "header": {"fields": {"h": payload("h")}}},
        **fields,
    )


async def _answer(p: Puppet, task: Any, **fields: Any) -> None:
    fields = fields or {"completed_type": "QUERY_RESULT_TYPE_ANSWERED", "query_result": payloads("here")}
    await p.call("RespondQueryTaskCompleted", task_token=task.task_token, **fields)


@scenario
async def has_a_task_of_its_own(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
    asked = _ask(p)
    task = await p.workflow_task()
    await _answer(p, task)
    await asked.answer()
    await p.history()
    await p.terminate()


@scenario
async def fails(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
    asked = _ask(p)
    task = await p.workflow_task()
    await _answer(
        p, task, completed_type="QUERY_RESULT_TYPE_FAILED", error_message="unknown query", failure=failure("why")
    )
    await asked.refused()
    await p.terminate()


@scenario
async def fails_with_message_only(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
    asked = _ask(p)
    task = await p.workflow_task()
    await _answer(p, task, completed_type="QUERY_RESULT_TYPE_FAILED", error_message="unknown query")
    await asked.refused()
    await p.terminate()


@scenario
async def goes_with_the_workflow_task(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
    await p.signal("s")
    asked = _ask(p)
    await p.arrived()
    task = await p.workflow_task()
    results = {key: {"result_type": "QUERY_RESULT_TYPE_ANSWERED", "answer": payloads("here")} for key in task.queries}
    p.note("queries", len(results))
    await p.complete(task, timer("2"), query_results=results)
    await asked.answer()
    await p.history()
    await p.terminate()


async def _with_results(p: Puppet, task: Any, *given: dict[str, Any]) -> None:
    """Complete a task and answer the queries that came with it."""
    results = {key: {"result_type": "QUERY_RESULT_TYPE_ANSWERED", "answer": payloads("here")} for key in task.queries}
    p.note("queries", len(results))
    await p.complete(task, *given, query_results=results)


@scenario
async def comes_before_the_first_task_is_taken(p: Puppet) -> None:
    await p.start()
    asked = _ask(p)
    await p.arrived()
    await _with_results(p, await p.workflow_task(), timer())
    await asked.answer()
    await p.history()
    await p.terminate()


@scenario
async def comes_while_a_worker_has_the_first_task(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    asked = _ask(p)
    await p.arrived()
    await _with_results(p, task, timer())
    task = await p.workflow_task()
    if task.HasField("query"):
        await _answer(p, task)
    else:
        await _with_results(p, task)
    await asked.answer()
    await p.history()
    await p.terminate()


@scenario
async def comes_while_a_worker_has_a_later_task(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
    await p.signal("s")
    task = await p.workflow_task()
    asked = _ask(p)
    await p.arrived()
    await _with_results(p, task, timer("2"))
    task = await p.workflow_task()
    if task.HasField("query"):
        await _answer(p, task)
    else:
        await _with_results(p, task)
    await asked.answer()
    await p.history()
    await p.terminate()


@scenario
async def failure_goes_with_the_workflow_task(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
    await p.signal("s")
    asked = _ask(p)
    await p.arrived()
    task = await p.workflow_task()
    results = {
        key: {"result_type": "QUERY_RESULT_TYPE_FAILED", "error_message": "unknown query", "failure": failure("why")}
        for key in task.queries
    }
    await p.complete(task, query_results=results)
    await asked.refused()
    await p.terminate()


@scenario
async def answered_as_the_workflow_completes(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
    await p.signal("s")
    asked = _ask(p)
    await p.arrived()
    task = await p.workflow_task()
    results = {key: {"result_type": "QUERY_RESULT_TYPE_ANSWERED", "answer": payloads("here")} for key in task.queries}
    await p.complete(task, complete_workflow(), query_results=results)
    await asked.answer()


@scenario
async def unanswered_waits_for_the_next_task(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
    await p.signal("s")
    asked = _ask(p)
    await p.arrived()
    task = await p.workflow_task()
    await p.complete(task)
    task = await p.workflow_task()
    await _answer(p, task)
    await asked.answer()
    await p.terminate()


@scenario
async def closed_run(p: Puppet) -> None:
    await p.start()
    await p.step(complete_workflow())
    asked = _ask(p)
    task = await p.workflow_task()
    await _answer(p, task)
    await asked.answer()


@scenario
async def rejected_by_condition(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
    asked = _ask(p, query_reject_condition=REJECT + "NOT_OPEN")
    await _answer(p, await p.workflow_task())
    await asked.answer()
    await p.terminate()
    for condition in ("NOT_OPEN", "NOT_COMPLETED_CLEANLY"):
        await p.call(
            "QueryWorkflow",
            execution=p.execution(),
            query={"query_type": "q"},
            query_reject_condition=REJECT + condition,
        )


@scenario
async def not_rejected_when_completed_cleanly(p: Puppet) -> None:
    await p.start()
    await p.step(complete_workflow())
    asked = _ask(p, query_reject_condition=REJECT + "NOT_COMPLETED_CLEANLY")
    await _answer(p, await p.workflow_task())
    await asked.answer()


@slow_scenario
async def before_the_first_task_completes(p: Puppet) -> None:
    await p.start()
    asked = _ask(p)
    await p.arrived()
    task = await p.workflow_task()
    await p.complete(task, timer(), query_results={})
    await _answer(p, await p.workflow_task())
    await asked.answer()
    await p.terminate()


@scenario
async def sticky(p: Puppet) -> None:
    queue = p.id("sticky")
    await p.start()
    poll = p.begin("PollWorkflowTaskQueue", **p.poll_fields(queue, sticky=True))
    await p.step(timer(), sticky_attributes=_sticky(queue, 60))
    asked = _ask(p)
    await _answer(p, await poll.answer())
    await asked.answer()
    await p.terminate()


@scenario
async def no_worker_at_the_sticky_queue(p: Puppet) -> None:
    """A query that finds no worker there lets the run leave the sticky queue: what follows goes to its own."""
    await p.start()
    await p.step(timer(), sticky_attributes=_sticky(p.id("sticky"), 60))
    asked = _ask(p)
    await _answer(p, await p.workflow_task())
    await asked.answer()
    await p.signal("s")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def no_answer_from_the_sticky_queue(p: Puppet) -> None:
    """The worker of the sticky queue takes the query and says nothing."""
    queue = p.id("sticky")
    await p.start()
    poll = p.begin("PollWorkflowTaskQueue", **p.poll_fields(queue, sticky=True))
    await p.step(timer(), sticky_attributes=_sticky(queue, 1))
    asked = _ask(p)
    await poll.answer()
    await _answer(p, await p.workflow_task())
    await asked.answer()
    await p.signal("s")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def no_time_for_the_sticky_queue(p: Puppet) -> None:
    """A caller that gives up before the worker's time is over changes nothing."""
    queue = p.id("sticky")
    await p.start()
    poll = p.begin("PollWorkflowTaskQueue", **p.poll_fields(queue, sticky=True))
    await p.step(timer(), sticky_attributes=_sticky(queue, 60))
    asked = _ask(p, record=False, deadline=1)
    await poll.answer()
    await asked.abandon()
    await p.signal("s")
    await p.complete(await p.workflow_task(queue, sticky=True), complete_workflow())
    await p.history()


def _sticky(queue: str, timeout: float) -> dict[str, object]:
    return {
        "worker_task_queue": {"name": queue, "kind": "TASK_QUEUE_KIND_STICKY"},
        "schedule_to_start_timeout": seconds(timeout),
    }


@scenario
async def after_a_failed_task(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
    await p.signal("s")
    for _ in range(3):
        await p.fail_task(await p.workflow_task(record=False))
    await p.attempt("QueryWorkflow", execution=p.execution(), query={"query_type": "q"}, deadline=3)
    await p.terminate()


@scenario
async def wrong_ones(p: Puppet) -> None:
    await p.refused("QueryWorkflow")
    await p.refused("QueryWorkflow", execution=p.execution())
    await p.refused("QueryWorkflow", execution=p.execution(), query={})
    await p.refused("QueryWorkflow", execution=p.execution("nobody"), query={"query_type": "q"})
    await p.refused("QueryWorkflow", execution=p.execution(run_id="no uuid"), query={"query_type": "q"})
    await p.refused("QueryWorkflow", execution=p.execution(), query={"query_type": "q"}, namespace="nowhere")


@scenario
async def answered_twice(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
    asked = _ask(p)
    task = await p.workflow_task(record=False)
    await _answer(p, task)
    await asked.answer()
    await p.attempt(
        "RespondQueryTaskCompleted",
        task_token=task.task_token,
        completed_type="QUERY_RESULT_TYPE_ANSWERED",
        query_result=payloads("late"),
    )
    await p.terminate()


@scenario
async def one_waits_and_another_is_refused(p: Puppet) -> None:
    """Until the first one's caller has its answer, or has gone."""
    await p.start()
    asked = _ask(p)
    await p.arrived()
    await p.attempt("QueryWorkflow", execution=p.execution(), query={"query_type": "another"}, deadline=5)
    await asked.abandon()
    await p.arrived()
    again = _ask(p)
    await p.arrived()
    task = await p.workflow_task(record=False)
    results = {
        query_id: {"result_type": "QUERY_RESULT_TYPE_ANSWERED", "answer": payloads("a")} for query_id in task.queries
    }
    await p.complete(task, timer(), query_results=results)
    await again.answer()
    await p.terminate()


@scenario
async def closed_before_its_first_task(p: Puppet) -> None:
    await p.start()
    await p.terminate()
    await p.refused("QueryWorkflow", execution=p.execution(), query={"query_type": "q"})
