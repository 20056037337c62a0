"""Workflows whose clock goes forward when nobody works for them: events, what is handed on, fast-forwards and polls."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.parity.commands import (
    activity,
    child,
    complete_workflow,
    continue_as_new,
    fail_workflow,
    timer,
)
from tests.parity.puppet import payloads, seconds
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

HOUR = 3600
DAY = 24 * HOUR


def skipping(**fields: Any) -> dict[str, Any]:
    """A configuration that skips."""
    return {"time_skipping_config": {"enabled": True, **fields}}


def forward(name: str, duration: float) -> dict[str, Any]:
    """A fast-forward."""
    return {"fast_forward_config": {"id": name, "duration": seconds(duration)}}


async def _options(p: Puppet, config: dict[str, Any] | None, **fields: Any) -> Any:
    options = {} if config is None else {"time_skipping_config": config}
    return await p.call(
        "UpdateWorkflowExecutionOptions", workflow_execution=p.execution(), workflow_execution_options=options,
        update_mask={"paths": ["time_skipping_config"]}, **fields,
    )  # fmt: skip


async def _poll(p: Puppet, name: str, **fields: Any) -> Any:
    return await p.call(
        "PollWorkflowExecutionTimeSkipping", workflow_execution=p.execution(), fast_forward_id=name, **fields
    )


async def _clock(p: Puppet, workflow_id: str | None = None) -> None:
    """How far the run's clock is ahead, in hours."""
    described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution(workflow_id))
    now = described.workflow_extended_info.time_skipping_info.current_time.ToDatetime(tzinfo=UTC)
    p.note("hours ahead", round((now - datetime.now(UTC)).total_seconds() / HOUR))


async def _event_types(p: Puppet) -> None:
    """Where the last event of a transition ends the skipping, Temporal writes that into the configuration in the event
    before, too, since both are one object: such histories are compared by their types."""
    history = await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution())
    p.note("history", [event.event_type for event in history.history.events])


@scenario
async def a_timer(p: Puppet) -> None:
    await p.start(**skipping())
    await p.step(timer("t", 30 * DAY))
    await p.has_event("timer_fired")
    await p.describe()
    await _clock(p)
    await p.step(complete_workflow())
    await p.history()
    await p.describe()


@slow_scenario
async def one_timer_after_the_other(p: Puppet) -> None:
    await p.start(**skipping())
    await p.step(timer("long", 10 * HOUR), timer("short", HOUR))
    await p.has_event("timer_fired")
    await p.step(timer("third", 2 * HOUR))
    await p.has_event("timer_fired", count=2)
    await p.step()
    await p.has_event("timer_fired", count=3)
    await p.step(complete_workflow())
    await p.history()


@slow_scenario
async def not_while_an_activity_runs(p: Puppet) -> None:
    await p.start(**skipping())
    await p.step(timer("t", HOUR), activity("a", p.task_queue, start_to_close_timeout=seconds(30)))
    task = await p.activity_task()
    await p.history()
    await p.complete_activity(task)
    await p.step()
    await p.has_event("timer_fired")
    await p.step(complete_workflow())
    await p.history()


@slow_scenario
async def the_back_off_of_an_activity(p: Puppet) -> None:
    await p.start(**skipping())
    await p.step(
        activity(
            "a", p.task_queue, start_to_close_timeout=seconds(30), schedule_to_close_timeout=seconds(9 * HOUR),
            retry_policy={"initial_interval": seconds(2 * HOUR), "maximum_attempts": 2},
        )
    )  # fmt: skip
    await p.fail_activity(await p.activity_task())
    await p.complete_activity(await p.activity_task())
    await p.step(complete_workflow())
    await p.history()


@slow_scenario
async def a_run_timeout(p: Puppet) -> None:
    await p.start(workflow_run_timeout=seconds(5 * HOUR), **skipping())
    await p.step()
    await p.closed()
    await p.history()
    await p.describe()


@slow_scenario
async def an_execution_timeout_before_a_timer(p: Puppet) -> None:
    await p.start(workflow_execution_timeout=seconds(5 * HOUR), **skipping())
    await p.step(timer("t", 6 * HOUR))
    await p.closed()
    await p.history()


@slow_scenario
async def a_start_delay(p: Puppet) -> None:
    await p.start(workflow_start_delay=seconds(DAY), **skipping())
    await p.step(complete_workflow())
    await p.history()


@slow_scenario
async def a_cron(p: Puppet) -> None:
    await p.start(cron_schedule="0 0 1 1 *", **skipping())
    for _ in range(2):
        await p.complete(await p.workflow_task(record=False), complete_workflow())
        await p.has_event("workflow_task_scheduled")
        await _event_types(p)
    described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution())
    p.note("skips", described.workflow_extended_info.time_skipping_info.effective_config.enabled)
    await p.terminate()


@slow_scenario
async def a_child(p: Puppet) -> None:
    kid, queue = p.id("child"), p.id("child-queue")
    await p.start(**skipping(**forward("f", 9 * HOUR), max_session_skip_count=7))
    await p.step(timer("t", HOUR))
    await p.has_event("timer_fired")
    await p.step(child(kid, queue, workflow_run_timeout=seconds(DAY)), timer("u", HOUR))
    task = await p.workflow_task(queue)
    await p.has_event("child_workflow_execution_started")
    await _clock(p, kid)
    await p.complete(task, timer("c", 3 * HOUR))
    await p.complete(await p.workflow_task(queue), complete_workflow("done"))
    await p.closed(kid)
    await p.has_event("child_workflow_execution_completed")
    await p.step()
    await p.has_event("timer_fired", count=2)
    await p.step(complete_workflow())
    await p.history(kid)
    await p.history()
    await p.describe(kid)
    await p.describe()


@scenario
async def a_child_that_does_not_skip(p: Puppet) -> None:
    kid, queue = p.id("child"), p.id("child-queue")
    await p.start(**skipping(disable_propagation=True))
    await p.step(timer("t", HOUR))
    await p.has_event("timer_fired")
    await p.step(child(kid, queue, workflow_execution_timeout=seconds(DAY)))
    await p.complete(await p.workflow_task(queue), timer("c", 3 * HOUR))
    await p.describe(kid)
    await _clock(p, kid)
    await p.history(kid)
    await p.terminate(kid)
    await p.has_event("child_workflow_execution_terminated")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def continued_as_new(p: Puppet) -> None:
    first = await p.start(**skipping(**forward("f", 5 * HOUR)))
    await p.step(timer("t", 2 * HOUR))
    await p.has_event("timer_fired")
    await p.step(continue_as_new(p.task_queue, workflow_run_timeout=seconds(DAY)))
    await p.step(timer("t", 2 * HOUR))
    await p.has_event("timer_fired")
    await p.history(run_id=first)
    await p.describe()
    await p.step(timer("last", 2 * HOUR))
    await _poll(p, "f")
    await p.history()
    await p.describe()
    await _clock(p)
    await p.terminate()


@slow_scenario
async def the_skipping_ends_before_the_next_run(p: Puppet) -> None:
    await p.start(**skipping(max_session_skip_count=1))
    await p.step(timer("t", 2 * HOUR))
    await p.has_event("timer_fired")
    await p.step(continue_as_new(p.task_queue, workflow_run_timeout=seconds(DAY)))
    await p.step(timer("t", 2 * HOUR))
    await p.history()
    await p.describe()
    await _clock(p)
    await p.terminate()


@slow_scenario
async def a_retried_workflow(p: Puppet) -> None:
    await p.start(retry_policy={"initial_interval": seconds(HOUR), "maximum_attempts": 2}, **skipping())
    await p.step(fail_workflow())
    await p.step(fail_workflow())
    await p.history()
    await p.describe()


@scenario
async def a_fast_forward(p: Puppet) -> None:
    await p.start()
    await p.step(timer("t", 10 * HOUR))
    await _options(p, {"enabled": True, **forward("one", 4 * HOUR)}, identity="client")
    await _poll(p, "one")
    await p.describe()
    await _clock(p)
    await _poll(p, "another")
    await _options(p, {"enabled": True, **forward("one", 4 * HOUR)})
    await _poll(p, "one")
    await _clock(p)
    await _options(p, {"enabled": True, **forward("two", 4 * HOUR)})
    await p.has_event("timer_fired")
    await p.complete(await p.workflow_task(record=False), complete_workflow())
    await _poll(p, "two")
    await _event_types(p)
    await p.describe()


@slow_scenario
async def a_fast_forward_that_a_worker_holds_up(p: Puppet) -> None:
    await p.start(**skipping(**forward("f", 0.3)))
    task = await p.workflow_task()
    await _poll(p, "f")
    await p.complete(task)
    await p.history()
    await p.describe()
    await p.terminate()


@scenario
async def waiting_for_a_fast_forward(p: Puppet) -> None:
    await p.start(**skipping(**forward("f", 4 * HOUR)))
    task = await p.workflow_task()
    first, second = (
        p.begin("PollWorkflowExecutionTimeSkipping", workflow_execution=p.execution(), fast_forward_id="f")
        for _ in range(2)
    )
    await p.complete(task, timer("t", 5 * HOUR))
    await first.answer()
    await second.answer()
    await p.terminate()


@slow_scenario
async def a_fast_forward_that_is_given_up(p: Puppet) -> None:
    await p.start(**skipping(**forward("f", 4 * HOUR)))
    await p.workflow_task()
    poll = p.begin("PollWorkflowExecutionTimeSkipping", workflow_execution=p.execution(), fast_forward_id="f")
    await p.arrived()
    await _options(p, {"enabled": True, **forward("f", 5 * HOUR)})
    await poll.answer()
    poll = p.begin("PollWorkflowExecutionTimeSkipping", workflow_execution=p.execution(), fast_forward_id="f")
    await p.arrived()
    await _options(p, {"enabled": True, **forward("g", 5 * HOUR)})
    await poll.answer()
    poll = p.begin("PollWorkflowExecutionTimeSkipping", workflow_execution=p.execution(), fast_forward_id="g")
    await p.arrived()
    await p.terminate()
    await poll.answer()
    await _poll(p, "g")
    await p.history()


@slow_scenario
async def switched_off_and_on(p: Puppet) -> None:
    await p.start(**skipping())
    await _options(p, {"enabled": False})
    await p.step(timer("t", HOUR))
    await p.describe()
    await _options(p, None)
    await p.describe()
    await _options(p, None)
    await _options(p, {"enabled": True, "max_session_skip_count": 1})
    await p.has_event("timer_fired")
    await p.complete(await p.workflow_task(record=False), timer("u", HOUR))
    await p.describe()
    await p.terminate()
    await _event_types(p)


@scenario
async def other_options_leave_it(p: Puppet) -> None:
    await p.start(**skipping(max_session_skip_count=9))
    await p.call(
        "UpdateWorkflowExecutionOptions", workflow_execution=p.execution(),
        workflow_execution_options={"priority": {"priority_key": 2}}, update_mask={"paths": ["priority"]},
    )  # fmt: skip
    await _options(p, {"enabled": True, "max_session_skip_count": 9})
    await p.terminate()
    await p.history()


@slow_scenario
async def signals_in_between(p: Puppet) -> None:
    await p.call(
        "SignalWithStartWorkflowExecution",
        **p.start_fields(),
        signal_name="s",
        signal_input=payloads("x"),
        **skipping(),
    )
    await p.step()
    await _clock(p)
    await p.signal("again")
    await p.step(timer("t", HOUR))
    await p.has_event("timer_fired")
    await p.step(complete_workflow())
    await p.history()


@slow_scenario
async def reset(p: Puppet) -> None:
    await p.start(**skipping())
    await p.step(timer("t", HOUR))
    await p.has_event("timer_fired")
    await p.step(timer("u", HOUR))
    await p.has_event("timer_fired", count=2)
    await p.call(
        "ResetWorkflowExecution", workflow_execution=p.execution(), workflow_task_finish_event_id=4, request_id="r",
        reason="again",
    )  # fmt: skip
    await p.step(timer("t", 3 * HOUR))
    await p.has_event("timer_fired")
    await _clock(p)
    await p.step(complete_workflow())
    await p.history()
    await p.describe()


@slow_scenario
async def a_paused_workflow(p: Puppet) -> None:
    await p.start(**skipping())
    task = await p.workflow_task()
    await p.call("PauseWorkflowExecution", workflow_id=p.workflow_id, identity="c", reason="why", request_id="r")
    await p.complete(task, timer("t", HOUR))
    await p.history()
    await p.call("UnpauseWorkflowExecution", workflow_id=p.workflow_id, identity="c", reason="on", request_id="u")
    await p.step()
    await p.has_event("timer_fired")
    await p.terminate()
    await p.history()


@scenario
async def refusals(p: Puppet) -> None:
    bad = (
        forward("f", 0),
        forward("f", -1),
        forward(" ", 1),
        {"enabled": False, **forward("f", 1)},
        {"fast_forward_config": {"id": "f"}},
    )
    for config in bad:
        await p.refused("StartWorkflowExecution", **p.start_fields(**skipping(**config)))
        await p.refused("SignalWithStartWorkflowExecution", signal_name="s", **p.start_fields(**skipping(**config)))
        await p.refused(
            "UpdateWorkflowExecutionOptions", workflow_execution=p.execution(),
            workflow_execution_options={"time_skipping_config": {"enabled": True, **config}},
            update_mask={"paths": ["time_skipping_config"]},
        )  # fmt: skip
    for execution, name in ((p.execution(), "f"), (p.execution(), " "), ({}, "f"), (p.execution(run_id="x"), "f")):
        await p.refused("PollWorkflowExecutionTimeSkipping", workflow_execution=execution, fast_forward_id=name)
    await p.refused("PollWorkflowExecutionTimeSkipping", fast_forward_id="f")
    await p.start()
    await _poll(p, "f")
    for path in ("time_skipping_config.enabled", "time_skipping_config.nothing"):
        await p.refused(
            "UpdateWorkflowExecutionOptions", workflow_execution=p.execution(),
            workflow_execution_options={"time_skipping_config": {"enabled": True}}, update_mask={"paths": [path]},
        )  # fmt: skip
    await p.describe()
    await p.terminate()
