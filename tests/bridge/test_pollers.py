"""How often the bridge calls, and when. Time is fake: a minute takes no minute."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentOptions as DeploymentOptions
from temporalio.api.enums.v1 import command_type_pb2 as commands
from temporalio.api.enums.v1.deployment_pb2 import WORKER_VERSIONING_MODE_VERSIONED as _VERSIONED
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.bridge.fakes import SERVICE, Bench
from whistlestop.bridge.pollers import ACTIVITY, WORKFLOW
from whistlestop.common.errors import Code, ServiceError, unavailable
from whistlestop.common.proto.internal_pb2 import TaskToken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def ended(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.bridge.close()


@pytest.fixture
async def holding() -> AsyncIterator[Bench]:
    made = Bench(holds=True)
    yield made
    await made.bridge.close()


async def test_an_idle_worker_makes_fewer_than_four_calls_a_minute(bench: Bench) -> None:
    """Ten minutes of an ordinary worker with nothing to do, its heartbeat of every minute included."""
    worker = bench.worker()
    await bench.advance(120)
    before = len(bench.target.calls)
    for _ in range(10):
        beat = asyncio.ensure_future(bench.call("RecordWorkerHeartbeat"))
        await bench.advance(60)
        await beat
    assert len(bench.target.calls) - before < 4 * 10
    assert {name for _, name in bench.target.calls[before:]} == {"ProbeBacklog", "RecordWorkerHeartbeat"}
    await ended(*worker)


async def test_an_idle_worker_of_a_server_makes_two_calls_a_minute(holding: Bench) -> None:
    """A waiting probe and a heartbeat."""
    worker = holding.worker()
    await holding.advance(120)
    before = len(holding.target.calls)
    for _ in range(10):
        beat = asyncio.ensure_future(holding.call("RecordWorkerHeartbeat"))
        await holding.advance(60)
        await beat
    assert len(holding.target.calls) - before <= 2 * 10 + 1
    await ended(*worker)


async def test_probe_intervals_grow_up_to_thirty_seconds(bench: Bench) -> None:
    worker = bench.worker()
    await bench.advance(600)
    at = bench.target.named("ProbeBacklog")
    pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert pauses[0] < 0.15
    assert max(pauses) == pytest.approx(30, abs=0.1)
    assert pauses == pytest.approx(sorted(pauses), abs=1e-3)
    await ended(*worker)


@pytest.mark.parametrize("method", ["StartWorkflowExecution", "RespondActivityTaskCompleted", "QueryWorkflow"])
async def test_a_call_through_the_bridge_causes_a_probe_at_once(bench: Bench, method: str) -> None:
    """The next probe comes at once, though the worker was idle for long."""
    worker = bench.worker()
    await bench.advance(600)
    before = len(bench.target.named("ProbeBacklog"))
    call = asyncio.ensure_future(bench.call(method))
    await bench.advance(0.1)
    await call
    assert len(bench.target.named("ProbeBacklog")) > before
    await ended(*worker)


async def test_a_poll_is_sent_for_each_task_that_a_probe_finds(bench: Bench) -> None:
    """One poll for one task, however many pollers wait."""
    worker = bench.worker()
    await bench.advance(0.04)
    bench.target.add("q", ACTIVITY)
    await bench.advance(0.3)
    assert bench.target.tasks.total() == 0
    assert len(bench.target.named("PollActivityTaskQueue")) == 1
    assert bench.target.named("PollWorkflowTaskQueue") == []
    await ended(*worker)


async def test_as_many_polls_go_out_as_tasks_wait(bench: Bench) -> None:
    for _ in range(3):
        bench.target.add("q")
    polls = [bench.poll() for _ in range(5)]
    await bench.advance(0.2)
    assert sorted(poll.done() for poll in polls) == [False, False, True, True, True]
    assert bench.bridge.counters.tasks == 3
    for poll in polls:
        poll.cancel()


async def test_a_waiting_probe_answers_as_soon_as_there_is_a_task(holding: Bench) -> None:
    poll = holding.poll()
    await holding.advance(30)
    holding.target.add("q")
    await holding.advance(0.1)
    assert poll.done()


async def test_a_new_queue_is_probed_at_once(holding: Bench) -> None:
    """A waiting probe does not include it, and is replaced."""
    first = holding.poll("one")
    await holding.advance(10)
    holding.target.add("two")
    second = holding.poll("two")
    await holding.advance(0.2)
    assert second.done()
    assert not first.done()
    first.cancel()


async def test_a_poll_ends_empty_before_its_deadline(bench: Bench) -> None:
    poll = bench.poll(seconds=20)
    await bench.advance(16)
    assert not poll.done()
    await bench.advance(2)
    assert await poll == b""


async def test_polls_outlast_a_target_that_is_down(bench: Bench) -> None:
    """They wait on, probes are tried at growing intervals, and go on when it is back."""
    poll = bench.poll()
    bench.target.error = unavailable("down")
    await bench.advance(40)
    assert not poll.done()
    assert 3 < len(bench.target.calls) < 15
    bench.target.error = None
    bench.target.add("q")
    await bench.advance(11)
    assert rr.PollWorkflowTaskQueueResponse.FromString(await poll).task_token == b"t"


async def test_a_permanent_refusal_is_returned_to_polls(bench: Bench) -> None:
    poll = bench.poll()
    bench.target.error = ServiceError(Code.PERMISSION_DENIED, "no")
    await bench.advance(1)
    with pytest.raises(ServiceError, match="no"):
        await poll


async def test_a_worker_that_shuts_down_gets_its_polls_back(bench: Bench) -> None:
    """Its own, and nobody else's."""
    leaving = bench.poll(worker_instance_key="a")
    staying = bench.poll(worker_instance_key="b")
    await bench.advance(1)
    request = rr.ShutdownWorkerRequest(namespace="default", worker_instance_key="a")
    call = asyncio.ensure_future(bench.call("ShutdownWorker", request.SerializeToString()))
    await bench.advance(1)
    await call
    assert await leaving == b""
    assert not staying.done()
    staying.cancel()


async def test_a_task_taken_for_a_poll_that_went_away_goes_to_another(bench: Bench) -> None:
    bench.target.add("q")
    bench.target.lag_s = 1.0
    gone, stays = bench.poll(), bench.poll()
    await bench.advance(1.5)  # the probe is answered, the poll on its way
    gone.cancel()
    await bench.advance(2)
    assert rr.PollWorkflowTaskQueueResponse.FromString(await stays).task_token == b"t"
    with contextlib.suppress(asyncio.CancelledError):
        await gone


async def test_a_clients_wait_is_rechecked_after_a_completion(bench: Bench) -> None:
    """And seldom while nothing is."""
    path = SERVICE + "GetWorkflowExecutionHistory"
    bench.target.answers[path] = rr.GetWorkflowExecutionHistoryResponse(next_page_token=b"t").SerializeToString()
    request = rr.GetWorkflowExecutionHistoryRequest(namespace="default", wait_new_event=True)
    wait = asyncio.ensure_future(bench.call("GetWorkflowExecutionHistory", request.SerializeToString()))
    await bench.advance(15)
    assert len(bench.target.named("GetWorkflowExecutionHistory")) < 20
    news = rr.GetWorkflowExecutionHistoryResponse()
    news.history.events.add(event_id=1)
    bench.target.answers[path] = news.SerializeToString()
    done = asyncio.ensure_future(bench.call("RespondWorkflowTaskCompleted"))
    await bench.advance(0.1)
    await done
    assert await wait == news.SerializeToString()


async def test_counters_distinguish_kinds_of_calls(bench: Bench) -> None:
    poll = bench.poll(path=WORKFLOW)
    bench.target.add("q")
    await bench.advance(1)
    await poll
    assert bench.bridge.counters.line().endswith("tasks=1 calls_total=0")  # a fake target counts nothing


async def test_a_poll_that_is_on_its_way_ends_with_its_worker_too(bench: Bench) -> None:
    """Once it comes back empty; and so does what the worker still sends."""
    poll = bench.poll(worker_instance_key="a")
    bench.target.add("q")
    await bench.advance(0.025)  # the probe is answered, the poll on its way
    bench.target.tasks.clear()
    request = rr.ShutdownWorkerRequest(namespace="default", worker_instance_key="a")
    call = asyncio.ensure_future(bench.call("ShutdownWorker", request.SerializeToString()))
    await bench.advance(1)
    await call
    assert bench.target.named("PollWorkflowTaskQueue")
    assert await poll == b""
    assert await bench.poll(worker_instance_key="a") == b""


async def test_no_call_of_a_worker_follows_its_shutdown_to_a_function(bench: Bench) -> None:
    """It remembers nobody: a probe that arrives afterwards would make the worker known again."""
    bench.target.lag_s = 1.0
    poll = bench.poll(worker_instance_key="a")
    await bench.advance(0.5)
    request = rr.ShutdownWorkerRequest(namespace="default", worker_instance_key="a")
    call = asyncio.ensure_future(bench.call("ShutdownWorker", request.SerializeToString()))
    await bench.advance(0.3)
    assert await poll == b""
    assert not bench.target.named("ShutdownWorker"), "the probe is on its way"
    await bench.advance(0.3)
    assert bench.target.named("ShutdownWorker")
    await bench.advance(1)
    await call


async def test_versions_of_one_queue_are_probed_separately(holding: Bench) -> None:
    """What waits for one of them is nothing to the other."""
    options = (
        DeploymentOptions(deployment_name="shop", build_id=build_id, worker_versioning_mode=_VERSIONED)
        for build_id in ("1.0", "2.0")
    )
    polls = [holding.poll(deployment_options=each) for each in options]
    await holding.advance(1)
    probed = {poll.deployment_options.build_id for poll in holding.target.last_probe.workflow_polls}
    assert probed == {"1.0", "2.0"}
    for poll in polls:
        poll.cancel()
    await asyncio.gather(*polls, return_exceptions=True)


async def test_a_clients_wait_is_not_rechecked_for_other_workflows(bench: Bench) -> None:
    """Of ten clients that wait for the ends of their workflows, one is to hear of one end."""
    path = SERVICE + "GetWorkflowExecutionHistory"
    bench.target.answers[path] = rr.GetWorkflowExecutionHistoryResponse(next_page_token=b"t").SerializeToString()
    waits = []
    for n in range(10):
        request = rr.GetWorkflowExecutionHistoryRequest(
            namespace="default", wait_new_event=True, history_event_filter_type=2  # type: ignore[arg-type]  # a number
        )  # fmt: skip
        request.execution.workflow_id = f"w{n}"
        waits.append(asyncio.ensure_future(bench.call("GetWorkflowExecutionHistory", request.SerializeToString())))
    await bench.advance(10)

    async def completed(workflow_id: str, command: Any) -> int:
        before = len(bench.target.named("GetWorkflowExecutionHistory"))
        token = TaskToken(workflow_id=workflow_id).SerializeToString()
        answer = rr.RespondWorkflowTaskCompletedRequest(task_token=token)
        answer.commands.add(command_type=command)
        call = asyncio.ensure_future(bench.call("RespondWorkflowTaskCompleted", answer.SerializeToString()))
        await bench.advance(0.02)
        await call
        return len(bench.target.named("GetWorkflowExecutionHistory")) - before

    assert await completed("w3", commands.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION) == 1
    assert await completed("w3", commands.COMMAND_TYPE_START_TIMER) == 0
    assert await completed("elsewhere", commands.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION) == 0
    assert await completed("", commands.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION) == 10
    await ended(*waits)


# What a poll that is on its way is worth.


async def on_its_way(bench: Bench, poll: asyncio.Task[bytes]) -> asyncio.Task[bytes]:
    """A task was found for it, and the target has not answered yet."""
    before = len(bench.target.named("PollWorkflowTaskQueue"))
    bench.target.add("q")
    while len(bench.target.named("PollWorkflowTaskQueue")) == before:
        await bench.advance(0.002)
    assert not poll.done()
    return poll


async def test_a_task_of_a_cancelled_poll_waits_for_the_next_poll(bench: Bench) -> None:
    await ended(await on_its_way(bench, bench.poll()))
    await bench.advance(1)
    other = bench.poll(identity="somebody")
    await bench.advance(0.1)
    assert not other.done()
    assert rr.PollWorkflowTaskQueueResponse.FromString(await bench.poll()).task_token == b"t"
    assert (bench.target.tasks.total(), len(bench.target.named("PollWorkflowTaskQueue"))) == (0, 1)
    await ended(other)


async def test_a_task_of_a_cancelled_poll_is_kept_for_a_limited_time(bench: Bench) -> None:
    """Longer than it may be answered, a task is not kept."""
    await ended(await on_its_way(bench, bench.poll()))
    await bench.advance(6)
    late = bench.poll()
    await bench.advance(0.1)
    assert not late.done()
    await ended(late)


async def test_a_task_goes_only_to_polls_with_the_same_credential(bench: Bench) -> None:
    """Identities are names that anybody may give."""
    poll = bench.poll(headers={"authorization": "Bearer good"})
    other = bench.poll(headers={"authorization": "Bearer bad"})
    await ended(await on_its_way(bench, poll))
    await bench.advance(1)
    assert not other.done()
    await ended(other)


async def test_a_refused_probe_does_not_affect_other_credentials(bench: Bench) -> None:
    bench.target.refused = {"Bearer bad"}
    bad = bench.poll("a", headers={"authorization": "Bearer bad"})
    await bench.advance(0.001)
    good = bench.poll("b", headers={"authorization": "Bearer good"})
    bench.target.add("b")
    await bench.advance(1)
    assert await good
    with pytest.raises(ServiceError) as raised:
        await bad
    assert raised.value.code is Code.PERMISSION_DENIED


async def test_a_poll_that_fails_is_sent_again_soon_and_then_less_often(bench: Bench) -> None:
    """The task is still there. An idle worker would not probe for half a minute."""
    poll = bench.poll()
    await bench.advance(600)
    await ended(poll)
    poll = bench.poll()
    bench.target.poll_error = unavailable("throttled")
    bench.target.add("q")
    await bench.advance(60)
    at = bench.target.named("PollWorkflowTaskQueue")
    pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert pauses[0] < 0.5
    assert 8 < max(pauses) < 11
    assert len(at) < 15
    bench.target.poll_error = None
    poll = bench.poll()
    await bench.advance(12)
    assert await poll


async def test_a_probe_with_an_unreadable_answer_is_retried(bench: Bench) -> None:
    poll = bench.poll()
    bench.target.garbled = 1
    bench.target.add("q")
    await bench.advance(1)
    assert await poll


async def test_a_bridge_that_closes_hands_out_what_is_on_its_way(bench: Bench) -> None:
    poll, waiting = await on_its_way(bench, bench.poll()), bench.poll()
    closing = asyncio.ensure_future(bench.bridge.close())
    await bench.advance(0.1)
    await closing
    assert rr.PollWorkflowTaskQueueResponse.FromString(await poll).task_token == b"t"
    assert await waiting == b""


async def test_a_bridge_that_closes_does_not_wait_for_ever(bench: Bench) -> None:
    poll = bench.poll()
    await bench.advance(0.015)
    bench.target.lag_s = 100
    await on_its_way(bench, poll)
    closing = asyncio.ensure_future(bench.bridge.close())
    await bench.advance(3)
    await closing
    assert await poll == b""


async def test_one_task_costs_one_probe(bench: Bench) -> None:
    """Whoever polls for one task at a time learns by the probe itself that no other waits."""
    poll = bench.poll()
    await bench.advance(600)
    await ended(poll)
    before = len(bench.target.named("ProbeBacklog"))
    bench.target.add("q")
    await ended(await on_its_way(bench, bench.poll()))
    await bench.advance(0.2)
    assert len(bench.target.named("ProbeBacklog")) == before + 1


async def test_no_probe_is_sent_during_a_call_that_makes_work(bench: Bench) -> None:
    """The probe follows its end."""
    worker = bench.worker()
    await bench.advance(2)
    bench.target.lag_s = 0.2
    before = len(bench.target.named("ProbeBacklog"))
    call = asyncio.ensure_future(bench.call("RespondActivityTaskCompleted"))
    for _ in range(19):
        await bench.advance(0.01)
    assert len(bench.target.named("ProbeBacklog")) == before
    await bench.advance(0.02)
    assert call.done()
    assert len(bench.target.named("ProbeBacklog")) == before + 1
    await ended(*worker)


async def test_the_pollers_of_a_worker_share_its_first_probe(bench: Bench) -> None:
    worker = bench.worker()
    await bench.advance(0.05)
    assert len(bench.target.named("ProbeBacklog")) == 1
    assert len(bench.target.last_probe.workflow_polls) + len(bench.target.last_probe.activity_polls) == 3
    await ended(*worker)
