"""Somebody sets the wall clock while callers wait: no wait ends early or late, and what is answered is answered."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.isolation.backend import Backend
from tests.patience import PATIENCE_S
from whistlestop.common.clock import SECOND_NS, WALL_CHECK_S
from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError
from whistlestop.common.notify import LocalNotifier
from whistlestop.common.proto.nexus_pb2 import DispatchNexusTaskRequest
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.transfers import deliveries
from whistlestop.history.transfers import processor as transfers
from whistlestop.storage.errors import Unavailable
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

HOUR_S = 3600.0
JUMPS = [HOUR_S, -HOUR_S]
STEP_S = 1.0
LONGEST_S = 90.0
IN_DEFAULT: dict[str, Any] = {"namespace": "default"}


@pytest_asyncio.fixture
async def backend() -> AsyncIterator[Backend]:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    made = Backend(store)
    await made.open()
    yield made
    await made.close()
    await store.close()


async def settle(backend: Backend, rounds: int = 4) -> None:
    """Let everything run that can run without time passing."""
    for _ in range(rounds):
        # The store writes in a thread of its own: what was to be written before is written when this is.
        await backend.store.remove_member("nobody")
        for _ in range(10):
            await asyncio.sleep(0)


async def let_pass(backend: Backend, seconds: float) -> None:
    for _ in range(round(seconds / STEP_S)):
        await backend.clock.advance(STEP_S)
        await settle(backend, 2)
    await settle(backend)


async def held_s(backend: Backend, waiting: Awaitable[Any], jump_s: float) -> float:
    """How long it is held when the clock is set two seconds after it began."""
    task = asyncio.ensure_future(waiting)
    await settle(backend)
    notifier = backend.history.ports.notifier
    assert isinstance(notifier, LocalNotifier)
    passed_s = 0.0
    while not task.done() and passed_s < LONGEST_S:
        if passed_s == 2:
            backend.clock.set_wall(jump_s)
            # Matching's one sleeper begins anew, for a poll that ends earlier.
            other = asyncio.ensure_future(
                backend.call("PollWorkflowTaskQueue", timeout_s=3, task_queue={"name": "other"}, **IN_DEFAULT)
            )
            other.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Whoever is woken for no reason looks at the clock, and waits on.
        notifier.publish(list(notifier.audience))
        await backend.clock.advance(STEP_S)
        await settle(backend, 2)
        passed_s += STEP_S
    await settle(backend)
    assert task.done(), "it waits on and on"
    with suppress(ServiceError):
        task.result()
    return passed_s


def poll(method: str) -> Callable[[Backend], Awaitable[Any]]:
    return lambda backend: backend.call(method, timeout_s=30, task_queue={"name": "q"}, **IN_DEFAULT)


async def history(backend: Backend) -> Any:
    await backend.start("w")
    asked = {"execution": {"workflow_id": "w"}, "wait_new_event": True, **IN_DEFAULT}
    first = await backend.call("GetWorkflowExecutionHistory", timeout_s=30, **asked)
    return backend.call("GetWorkflowExecutionHistory", timeout_s=30, next_page_token=first.next_page_token, **asked)


async def update(backend: Backend) -> Any:
    await backend.start("w")
    return backend.call(
        "UpdateWorkflowExecution", timeout_s=12, workflow_execution={"workflow_id": "w"},
        request={"meta": {"update_id": "u"}, "input": {"name": "n"}}, wait_policy={"lifecycle_stage": 3}, **IN_DEFAULT,
    )  # fmt: skip


async def query(backend: Backend) -> Any:
    await backend.start("w")
    return backend.call(
        "QueryWorkflow", timeout_s=12, execution={"workflow_id": "w"}, query={"query_type": "q"}, **IN_DEFAULT
    )


async def direct_query(backend: Backend) -> Any:
    await backend.start("w")
    await backend.complete("w")
    return await query_again(backend)


async def query_again(backend: Backend) -> Any:
    return backend.call(
        "QueryWorkflow", timeout_s=12, execution={"workflow_id": "w"}, query={"query_type": "q"}, **IN_DEFAULT
    )


async def begun_activity(backend: Backend) -> str:
    reply = await backend.call(
        "StartActivityExecution", activity_id="a", request_id="r", activity_type={"name": "A"}, task_queue={"name": "q"},
        start_to_close_timeout={"seconds": 9000}, **IN_DEFAULT,
    )  # fmt: skip
    return str(reply.run_id)


async def activity_outcome(backend: Backend) -> Any:
    run_id = await begun_activity(backend)
    return backend.call("PollActivityExecution", timeout_s=12, activity_id="a", run_id=run_id, **IN_DEFAULT)


async def activity_description(backend: Backend) -> Any:
    run_id = await begun_activity(backend)
    asked = {"activity_id": "a", "run_id": run_id, **IN_DEFAULT}
    described = await backend.call("DescribeActivityExecution", **asked)
    return backend.call("DescribeActivityExecution", timeout_s=12, long_poll_token=described.long_poll_token, **asked)


async def nexus_request(backend: Backend) -> Any:
    request = DispatchNexusTaskRequest(task_queue="q")
    context = CallContext(backend.clock.steady_ns() + 12 * SECOND_NS, {}, backend.namespace_id, "default")
    return backend.history.call(HistoryService.DispatchNexusTask, request, context)


async def polled(backend: Backend, method: str) -> Any:
    return poll(method)(backend)


WAITS: dict[str, Callable[[Backend], Awaitable[Any]]] = {
    "poll of workflow tasks": lambda backend: polled(backend, "PollWorkflowTaskQueue"),
    "poll of activity tasks": lambda backend: polled(backend, "PollActivityTaskQueue"),
    "poll of Nexus tasks": lambda backend: polled(backend, "PollNexusTaskQueue"),
    "long poll of a history": history,
    "update": update,
    "query that waits for a workflow task": query,
    "query on its way to a worker": direct_query,
    "long poll of an activity's outcome": activity_outcome,
    "long poll of an activity's description": activity_description,
    "Nexus request of somebody outside": nexus_request,
}


@pytest.mark.parametrize("jump_s", JUMPS, ids=["forward", "back"])
@pytest.mark.parametrize("name", WAITS)
async def test_a_wait_takes_as_long_as_without_a_jump(backend: Backend, name: str, jump_s: float) -> None:
    usual_s = await held_s(backend, await WAITS[name](backend), 0)
    assert 5 < usual_s < 60, "it is to end by its deadline, after the clock was set"
    other = Backend(SqliteStore(":memory:"))
    await other.store.open()
    await other.store.migrate()
    await other.open()
    try:
        assert await held_s(other, await WAITS[name](other), jump_s) == usual_s
    finally:
        await other.close()
        await other.store.close()


@pytest.mark.parametrize("jump_s", JUMPS, ids=["forward", "back"])
async def test_a_task_goes_to_a_poll_that_waits(backend: Backend, jump_s: float) -> None:
    polling = asyncio.ensure_future(poll("PollWorkflowTaskQueue")(backend))
    await let_pass(backend, 1)
    backend.clock.set_wall(jump_s)
    await backend.start("w", task_queue={"name": "q"})
    await settle(backend)
    assert polling.done()
    assert polling.result().workflow_execution.workflow_id == "w"


@pytest.mark.parametrize("jump_s", JUMPS, ids=["forward", "back"])
@pytest.mark.parametrize("started_before", [False, True], ids=["with a workflow task", "by itself"])
async def test_a_query_is_answered(backend: Backend, jump_s: float, *, started_before: bool) -> None:
    """Its row says when it expires, by a clock that was set since."""
    if started_before:
        await backend.start("w")
        await backend.complete("w")
        asking = asyncio.ensure_future(await query_again(backend))
    else:
        asking = asyncio.ensure_future(await query(backend))
    await settle(backend)
    backend.clock.set_wall(jump_s)
    task = await backend.poll("w")
    answer: dict[str, Any] = {"result_type": 1, "answer": {"payloads": [{"data": b"42"}]}}
    if started_before:
        await backend.call(
            "RespondQueryTaskCompleted", task_token=task.task_token, completed_type=1,
            query_result=answer["answer"], **IN_DEFAULT,
        )  # fmt: skip
    else:
        assert len(task.queries) == 1
        results = {query_id: answer for query_id in task.queries}  # noqa: C420 - each is a message of its own
        await backend.call(
            "RespondWorkflowTaskCompleted", task_token=task.task_token, query_results=results, **IN_DEFAULT
        )
    await settle(backend)
    assert (await asyncio.wait_for(asking, PATIENCE_S)).query_result.payloads[0].data == b"42"


# ---- what is due by the date ----------------------------------------------------------------------------------------


async def fired(backend: Backend) -> bool:
    reply = await backend.call("GetWorkflowExecutionHistory", execution={"workflow_id": "w"}, **IN_DEFAULT)
    return any(event.HasField("timer_fired_event_attributes") for event in reply.history.events)


async def start_timer(backend: Backend, seconds: int) -> None:
    await backend.start("w", workflow_run_timeout={"seconds": 900_000})
    attributes = {"timer_id": "t", "start_to_fire_timeout": {"seconds": seconds}}
    await backend.complete("w", {"command_type": 3, "start_timer_command_attributes": attributes})


async def test_a_timer_that_a_jump_expires_fires_at_the_next_check(backend: Backend) -> None:
    await backend.history.start()
    await start_timer(backend, 1800)
    await let_pass(backend, 2)
    backend.clock.set_wall(HOUR_S)
    await let_pass(backend, WALL_CHECK_S + 1)
    assert await fired(backend)


@pytest.mark.parametrize("seconds", [30, 300])
async def test_a_timer_waits_for_its_date_when_the_clock_is_set_back(backend: Backend, seconds: int) -> None:
    """Near ones are armed in memory, later ones are found in the store, which is read as often as before."""
    await backend.history.start()
    await start_timer(backend, seconds)
    await let_pass(backend, 2)
    backend.clock.set_wall(-60)
    await let_pass(backend, seconds)
    assert not await fired(backend)
    await let_pass(backend, 60 + WALL_CHECK_S)
    assert await fired(backend)


async def test_timers_of_another_process_are_found_after_the_clock_was_set_back(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is read every minute that passes, not when the old horizon has come."""
    await backend.history.start()
    await let_pass(backend, 2)
    backend.clock.set_wall(-HOUR_S)
    with monkeypatch.context() as patched:
        patched.setattr(backend.history.timers, "notify", lambda _: None)
        await start_timer(backend, 90)
    await let_pass(backend, 90 + WALL_CHECK_S + 1)
    assert await fired(backend)


@pytest.mark.parametrize("jump_s", JUMPS, ids=["forward", "back"])
async def test_a_delivery_is_tried_again_when_its_time_has_passed(
    backend: Backend, jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a sweep that finds the row due by the new date nor the date itself has a say."""
    tries: list[float] = []

    async def deliver(*_: Any) -> None:
        tries.append(backend.clock.steady_ns() / SECOND_NS)
        raise Unavailable("not now")

    monkeypatch.setattr(deliveries, "deliver", deliver)
    monkeypatch.setattr(transfers, "MOST_RETRY_NS", 40 * SECOND_NS)
    monkeypatch.setattr(transfers, "FIRST_RETRY_NS", 40 * SECOND_NS)
    monkeypatch.setattr(transfers, "SWEEP_S", 7.0)
    await backend.history.start()
    await backend.start("parent")
    child = {"workflow_id": "child", "workflow_type": {"name": "C"}, "task_queue": {"name": "q"}, **IN_DEFAULT}
    await backend.complete("parent", {"command_type": 11, "start_child_workflow_execution_command_attributes": child})
    await let_pass(backend, 2)
    backend.clock.set_wall(jump_s)
    await let_pass(backend, 60)
    assert len(tries) == 2
    assert 40 <= tries[1] - tries[0] <= 41
