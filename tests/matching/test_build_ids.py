"""Polls of workers that are versioned by build ids alone: their queues, and what history is told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.matching.fakes import NAMESPACE, NORMAL, STICKY, Bench, code_of
from whistlestop.common.errors import ServiceError
from whistlestop.common.proto import internal_pb2 as internal
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.common.versioning.build_ids import build_queue, set_queue
from whistlestop.storage.deployments import Deployments

if TYPE_CHECKING:
    from whistlestop.common.clients import Reply
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.storage.records import TaskQueueRecord

HOLDS = pytest.mark.parametrize("can_long_poll", [True, False], ids=["process", "function"])


async def store(bench: Bench) -> None:
    """A queue with the set of 1 and 1.1, and a redirect rule from a to b."""

    def change(known: NamespaceDeployments) -> None:
        data = known.versioning["q"]
        data.clock_ns = 1
        builds = data.sets.add(set_ids=["s"], became_default_ns=1).build_ids
        builds.add(id="1", became_default_ns=1)
        builds.add(id="1.1", became_default_ns=1)
        rule = data.redirect_rules.add(created_ns=1).rule
        rule.source_build_id, rule.target_build_id = "a", "b"

    await Deployments(bench.store, bench.clock).change(NAMESPACE, change)


async def poll(bench: Bench, build_id: str, *, sticky: bool = False, can_long_poll: bool = True) -> Reply:
    queue = queue_pb.TaskQueue(name="q", kind=NORMAL)
    if sticky:
        queue = queue_pb.TaskQueue(name="cache", kind=STICKY, normal_name="q")
    request = rr.PollWorkflowTaskQueueRequest(namespace="ns", task_queue=queue, identity="me")
    request.worker_version_capabilities.build_id = build_id
    request.worker_version_capabilities.use_versioning = True
    return await bench.matching.call(
        MatchingService.PollWorkflowTaskQueue, request, bench.context(can_long_poll=can_long_poll)
    )


def told(bench: Bench) -> tuple[str, str]:
    """The workflow that was started last, and the build id that history heard of."""
    asked: Any = bench.history.calls[-1][1]
    return asked.execution.workflow_id, asked.poll.worker_version_capabilities.build_id


@HOLDS
async def test_the_default_of_a_set_takes_its_tasks_without_a_build_id_for_history(*, can_long_poll: bool) -> None:
    bench = Bench()
    await store(bench)
    bench.task("unversioned")
    bench.task("of the set", queue=set_queue("s", "q"))
    await poll(bench, "1.1", can_long_poll=can_long_poll)
    assert told(bench) == ("of the set", "")


@HOLDS
async def test_a_build_id_under_rules_takes_its_own_tasks_and_history_gets_it(*, can_long_poll: bool) -> None:
    bench = Bench()
    await store(bench)
    bench.task("unversioned")
    bench.task("of the build", queue=build_queue("b", "q"))
    await poll(bench, "b", can_long_poll=can_long_poll)
    assert told(bench) == ("of the build", "b")


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize(("build_id", "newer"), [("1", "1.1"), ("a", "b")])
async def test_the_refusal_of_a_replaced_build_id_names_its_successor(
    build_id: str, newer: str, *, sticky: bool
) -> None:
    bench = Bench()
    await store(bench)
    with pytest.raises(ServiceError, match=f'newer compatible build: "{newer}"') as refused:
        await poll(bench, build_id, sticky=sticky)
    assert code_of(refused.value) == "OUT_OF_RANGE"
    assert [detail.default_build_id for detail in refused.value.details] == [newer]  # type: ignore[attr-defined]


async def test_a_sticky_queue_is_the_workers_own() -> None:
    bench = Bench()
    await store(bench)
    bench.task("cached", queue="cache")
    await poll(bench, "b", sticky=True)
    assert told(bench) == ("cached", "")


async def test_misrouted_tasks_are_searched_from_time_to_time() -> None:
    bench = Bench()
    await store(bench)
    for _ in range(2):
        bench.commit("w", queue=set_queue("s", "q"))
        await poll(bench, "1.1")
    assert [method for method, _ in bench.history.calls].count("RerouteTasks") == 1
    await bench.clock.advance(11)
    bench.commit("w", queue=set_queue("s", "q"))
    await poll(bench, "1.1")
    assert [method for method, _ in bench.history.calls].count("RerouteTasks") == 2


async def test_pollers_are_found_within_the_requested_time() -> None:
    """A sticky queue is asked for the last ten seconds, a build id that is to be committed for seventy."""
    bench = Bench()
    await store(bench)
    bench.task("w")
    assert (await bench.poll()).workflow_execution.workflow_id == "w"
    await bench.clock.advance(60)
    for within_s, found in ((0, False), (70, True)):
        request = internal.HasPollerRequest(task_queue="q", within_s=within_s)
        assert (await bench.ask("HasPoller", request)).has_poller is found
    await bench.clock.advance(11)
    assert not (await bench.ask("HasPoller", request)).has_poller


async def test_an_unversioned_poll_reads_no_build_ids() -> None:
    """What others pay for build ids: nothing."""
    bench = Bench()
    await store(bench)
    asked: list[object] = []
    read = bench.rows.get_task_queue

    async def counted(namespace_id: str, task_queue: str, task_type: int) -> TaskQueueRecord | None:
        asked.append(task_queue)
        return await read(namespace_id, task_queue, task_type)

    bench.rows.get_task_queue = counted  # type: ignore[method-assign]
    bench.task("w")
    assert (await bench.poll()).workflow_execution.workflow_id == "w"
    assert asked == []


@HOLDS
async def test_nexus_polls_of_a_build_id_take_its_own_tasks(*, can_long_poll: bool) -> None:
    bench = Bench()
    await store(bench)
    bench.task("default", queue=set_queue("s", "q"), task_type=3)
    request = rr.PollNexusTaskQueueRequest(namespace="ns", task_queue={"name": "q"}, identity="me")  # type: ignore[arg-type]
    request.worker_version_capabilities.build_id = "1.1"
    request.worker_version_capabilities.use_versioning = True
    await bench.matching.call(MatchingService.PollNexusTaskQueue, request, bench.context(can_long_poll=can_long_poll))
    method, asked = bench.history.calls[-1]
    assert (method, asked.workflow_id) == ("RecordNexusTaskStarted", "default")
    request.worker_version_capabilities.build_id = "1"
    with pytest.raises(ServiceError, match="newer compatible build"):
        await bench.matching.call(
            MatchingService.PollNexusTaskQueue, request, bench.context(can_long_poll=can_long_poll)
        )
