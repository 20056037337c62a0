"""How versions of worker deployments come, drain and go, over a whole backend."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from temporalio.api.enums.v1 import failed_cause_pb2 as causes

from tests.api.deployment_site import CURRENT, DRAINED, DRAINING, INACTIVE, PINNED, RAMPING, Site, opened
from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GRACE_S = 180
COMPLETE = [{"command_type": 4, "complete_workflow_execution_command_attributes": {}}]


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    async with opened() as made:
        yield made


def _version(build_id: str) -> dict[str, str]:
    return {"deployment_name": "d", "build_id": build_id}


def _pin(build_id: str) -> dict[str, Any]:
    return {"pinned": {"behavior": 1, "version": _version(build_id)}}


async def _drainage(site: Site, build_id: str) -> Any:
    described = await site.call("DescribeWorkerDeploymentVersion", deployment_version=_version(build_id))
    return described.worker_deployment_version_info.drainage_info


# ---- drainage ----


async def test_a_version_drains_for_its_grace_period_though_nothing_is_pinned_to_it(site: Site) -> None:
    await site.current("1")
    await site.current("2")
    began = (await _drainage(site, "1")).last_changed_time.ToNanoseconds()
    await site.backend.clock.advance(GRACE_S - 1)
    assert await site.statuses() == {"1": DRAINING, "2": CURRENT}
    await site.backend.clock.advance(1)
    assert await site.statuses() == {"1": DRAINED, "2": CURRENT}
    changed = await _drainage(site, "1")
    assert changed.last_changed_time.ToNanoseconds() == began + GRACE_S * 10**9
    assert changed.last_checked_time == changed.last_changed_time


async def test_a_version_that_ramps_no_more_drains_too(site: Site) -> None:
    await site.call("SetWorkerDeploymentRampingVersion", deployment_name="d", build_id="1", percentage=10)
    await site.call("SetWorkerDeploymentRampingVersion", deployment_name="d", percentage=0)
    assert (await site.statuses())["1"] == DRAINING
    await site.backend.clock.advance(GRACE_S)
    assert (await site.statuses())["1"] == DRAINED


async def test_drainage_is_checked_again_only_after_the_refresh_interval(site: Site) -> None:
    await site.current("1")
    await site.start("pinned")
    task = await site.poll("1")
    await site.complete(task, "1", PINNED)
    await site.current("2")
    await site.backend.clock.advance(GRACE_S)
    assert (await site.statuses())["1"] == DRAINING
    await site.signal("pinned")
    await site.complete(await site.poll("1"), "1", PINNED, COMPLETE)
    await site.backend.clock.advance(GRACE_S - 1)
    assert (await site.statuses())["1"] == DRAINING
    await site.backend.clock.advance(1)
    assert (await site.statuses())["1"] == DRAINED


async def test_the_periods_can_be_set() -> None:
    prefix = "matching.wv.VersionDrainageStatus"
    async with opened(f'{prefix}VisibilityGracePeriod="6s"', f'{prefix}RefreshInterval="1s"') as site:
        await site.current("1")
        await site.start("pinned")
        await site.complete(await site.poll("1"), "1", PINNED)
        await site.current("2")
        await site.backend.clock.advance(6)
        assert (await site.statuses())["1"] == DRAINING
        await site.call("TerminateWorkflowExecution", workflow_execution={"workflow_id": "pinned"})
        await site.backend.clock.advance(1)
        assert (await site.statuses())["1"] == DRAINED


async def test_a_version_that_is_current_again_drains_no_more(site: Site) -> None:
    await site.current("1")
    await site.current("2")
    await site.current("1")
    await site.backend.clock.advance(GRACE_S)
    assert await site.statuses() == {"1": CURRENT, "2": DRAINED}
    assert (await _drainage(site, "1")).status == 0


async def test_a_draining_version_is_deleted_only_with_skip_drainage() -> None:
    async with opened('matching.PollerHistoryTTL="1s"') as site:
        await site.current("1")
        await site.current("2")
        await site.backend.clock.advance(2)
        with pytest.raises(ServiceError, match="cannot be deleted since it is draining") as refused:
            await site.call("DeleteWorkerDeploymentVersion", deployment_version=_version("1"))
        assert refused.value.code is Code.FAILED_PRECONDITION
        await site.call("DeleteWorkerDeploymentVersion", deployment_version=_version("1"), skip_drainage=True)
        assert await site.statuses() == {"2": CURRENT}


# ---- reactivation ----


async def _started(site: Site) -> None:
    await site.start("w", versioning_override=_pin("1"))


async def _started_instead(site: Site) -> None:
    """The workflow id is taken by another run."""
    await site.start("w")
    await site.call(
        "StartWorkflowExecution", workflow_id="w", request_id="again", workflow_type={"name": "T"},
        task_queue={"name": "q"}, workflow_id_conflict_policy=3, versioning_override=_pin("1"),
    )  # fmt: skip


async def _signalled_with_start(site: Site) -> None:
    await site.call(
        "SignalWithStartWorkflowExecution", workflow_id="w", request_id="w", workflow_type={"name": "T"},
        task_queue={"name": "q"}, signal_name="s", versioning_override=_pin("1"),
    )  # fmt: skip


async def _updated(site: Site) -> None:
    await site.start("w")
    await site.call(
        "UpdateWorkflowExecutionOptions", workflow_execution={"workflow_id": "w"},
        workflow_execution_options={"versioning_override": _pin("1")}, update_mask={"paths": ["versioning_override"]},
    )  # fmt: skip


async def _once(site: Site) -> None:
    """An override for one task."""
    await site.start("w")
    override = {"one_time": {"target_deployment_version": _version("1")}}
    await site.call(
        "UpdateWorkflowExecutionOptions", workflow_execution={"workflow_id": "w"},
        workflow_execution_options={"versioning_override": override}, update_mask={"paths": ["versioning_override"]},
    )  # fmt: skip


async def _reset(site: Site) -> None:
    await site.start("w")
    task = await site.poll("")
    await site.call("RespondWorkflowTaskCompleted", task_token=task.task_token)
    operation = {
        "update_workflow_options": {
            "workflow_execution_options": {"versioning_override": _pin("1")},
            "update_mask": {"paths": ["versioning_override"]},
        }
    }
    await site.call(
        "ResetWorkflowExecution", workflow_execution={"workflow_id": "w"}, reason="again", request_id="reset",
        workflow_task_finish_event_id=4, post_reset_operations=[operation],
    )  # fmt: skip


async def _updated_with_start(site: Site) -> None:
    start = {
        "namespace": "default", "workflow_id": "w", "request_id": "w", "workflow_type": {"name": "T"},
        "task_queue": {"name": "q"}, "workflow_id_conflict_policy": 2, "versioning_override": _pin("1"),
    }  # fmt: skip
    update = {
        "namespace": "default", "workflow_execution": {"workflow_id": "w"}, "wait_policy": {"lifecycle_stage": 2},
        "request": {"meta": {"update_id": "u"}, "input": {"name": "u"}},
    }  # fmt: skip
    call = site.call("ExecuteMultiOperation", operations=[{"start_workflow": start}, {"update_workflow": update}])
    with pytest.raises(ServiceError):  # no worker accepts the update in the time
        await site.within(1, call)


async def _scheduled(site: Site) -> None:
    action = {
        "workflow_id": "s", "workflow_type": {"name": "T"}, "task_queue": {"name": "q"}, "versioning_override": _pin("1")
    }  # fmt: skip
    await site.call(
        "CreateSchedule", schedule_id="s", request_id="s", initial_patch={"trigger_immediately": {}},
        schedule={"spec": {}, "action": {"start_workflow": action}},
    )  # fmt: skip
    await site.within(1, asyncio.sleep(0))


WAYS = [_scheduled, _started, _started_instead, _signalled_with_start, _updated, _once, _reset, _updated_with_start]


@pytest.mark.parametrize("way", WAYS)
async def test_a_version_without_work_drains_as_soon_as_a_run_is_pinned_to_it(site: Site, way: Any) -> None:
    await site.current("2")
    await site.current("")
    assert (await site.statuses())["1"] == INACTIVE
    await way(site)
    assert (await site.statuses())["1"] == DRAINING
    assert (await _drainage(site, "1")).status == 1


async def test_reactivation_can_be_switched_off() -> None:
    async with opened("history.enableVersionReactivationSignals=false") as site:
        await _started(site)
        assert (await site.statuses())["1"] == INACTIVE


async def test_a_drained_version_drains_again_for_the_whole_grace_period(site: Site) -> None:
    await site.current("1")
    await site.current("2")
    await site.backend.clock.advance(GRACE_S)
    assert (await site.statuses())["1"] == DRAINED
    await _started(site)
    await site.call("TerminateWorkflowExecution", workflow_execution={"workflow_id": "w"})
    await site.backend.clock.advance(GRACE_S - 1)
    assert (await site.statuses())["1"] == DRAINING
    await site.backend.clock.advance(1)
    assert (await site.statuses())["1"] == DRAINED


async def test_a_start_that_uses_the_run_which_is_there_reactivates_nothing(site: Site) -> None:
    await site.start("w")
    await site.call(
        "StartWorkflowExecution", workflow_id="w", request_id="again", workflow_type={"name": "T"},
        task_queue={"name": "q"}, workflow_id_conflict_policy=2, versioning_override=_pin("1"),
    )  # fmt: skip
    assert (await site.statuses())["1"] == INACTIVE


@pytest.mark.parametrize("way", [_started, _signalled_with_start, _updated_with_start])
async def test_no_start_pins_to_an_unknown_version(site: Site, way: Any) -> None:
    await site.backend.clock.advance(600)
    await site.call("DeleteWorkerDeploymentVersion", deployment_version=_version("1"))
    if way is _updated_with_start:
        await way(site)
        with pytest.raises(ServiceError, match="not found"):
            await site.call("DescribeWorkflowExecution", execution={"workflow_id": "w"})
        return
    with pytest.raises(ServiceError) as refused:
        await way(site)
    assert refused.value.code is Code.FAILED_PRECONDITION
    assert refused.value.message == "Pinned version 'd:1' is not present in task queue 'q' of type 'Workflow'"


async def test_a_schedule_starts_nothing_on_a_version_that_is_gone(site: Site) -> None:
    await site.backend.clock.advance(600)
    await site.call("DeleteWorkerDeploymentVersion", deployment_version=_version("1"))
    await _scheduled(site)
    assert not (await site.call("ListWorkflowExecutions", query="WorkflowType = 'T'")).executions
    described = await site.call("DescribeSchedule", schedule_id="s")
    assert (described.info.action_count, described.info.buffer_size) == (0, 0)


# ---- routing to versions and deployments that nobody has polled ----


async def test_routing_creates_an_unknown_deployment_if_allow_no_pollers_is_set(site: Site) -> None:
    for method, more in (
        ("SetWorkerDeploymentCurrentVersion", {}),
        ("SetWorkerDeploymentRampingVersion", {"percentage": 10}),
    ):
        fields: dict[str, Any] = {"deployment_name": method, "build_id": "7", **more}
        with pytest.raises(ServiceError, match="no Worker Deployment found"):
            await site.call(method, **fields)
        await site.call(method, allow_no_pollers=True, **fields)
        described = await site.call("DescribeWorkerDeployment", deployment_name=method)
        (summary,) = described.worker_deployment_info.version_summaries
        assert summary.status == (RAMPING if "percentage" in fields else CURRENT)


async def test_a_refused_change_makes_no_deployment(site: Site) -> None:
    with pytest.raises(ServiceError, match="conflict token mismatch"):
        await site.call(
            "SetWorkerDeploymentCurrentVersion", deployment_name="new", build_id="1", allow_no_pollers=True,
            conflict_token=b"stale",
        )  # fmt: skip
    with pytest.raises(ServiceError, match="no Worker Deployment found"):
        await site.call("DescribeWorkerDeployment", deployment_name="new")


@pytest.mark.parametrize("method", ["SetWorkerDeploymentCurrentVersion", "SetWorkerDeploymentRampingVersion"])
async def test_a_version_without_a_queue_of_the_current_one_is_refused_while_tasks_wait_there(
    site: Site, method: str
) -> None:
    assert await site.poll("1", queue="more") is None
    await site.current("1")
    change = {"deployment_name": "d", "build_id": "2"} | ({"percentage": 5} if "Ramping" in method else {})
    await site.start("w", task_queue={"name": "more"})
    with pytest.raises(ServiceError, match="is missing active task queues") as refused:
        await site.call(method, **change)
    assert refused.value.code is Code.FAILED_PRECONDITION
    await site.complete(await site.poll("1", queue="more"), "1", PINNED, COMPLETE)
    await site.backend.clock.advance(1)
    with pytest.raises(ServiceError, match="is missing active task queues"):  # tasks arrived just now
        await site.call(method, **change)
    await site.backend.clock.advance(60)
    await site.call(method, **change)


async def test_a_queue_that_another_deployment_has_taken_over_is_not_missed(site: Site) -> None:
    assert await site.poll("1", queue="more") is None
    await site.current("1")
    await site.start("w", task_queue={"name": "more"})
    assert await site.poll("1", queue="more", deployment="e") is None
    await site.backend.clock.advance(1)
    await site.call("SetWorkerDeploymentCurrentVersion", deployment_name="e", build_id="1")
    await site.start("x", task_queue={"name": "more"})
    await site.current("2")


# ---- limits ----


async def test_a_deployment_that_is_full_takes_no_further_version() -> None:
    async with opened("matching.maxVersionsInDeployment=2") as site:
        with pytest.raises(ServiceError, match=r"cannot add version d\.3 since maximum number of versions \(2\)") as no:
            await site.poll("3")
        with pytest.raises(ServiceError, match="cannot add version"):  # and not only the first time
            await site.poll("3")
        assert no.value.code is Code.RESOURCE_EXHAUSTED
        detail: Any = no.value.details[0]
        assert detail.cause == causes.RESOURCE_EXHAUSTED_CAUSE_WORKER_DEPLOYMENT_LIMITS
        with pytest.raises(ServiceError, match="cannot add version"):
            await site.current("3", allow_no_pollers=True)
        assert await site.statuses() == {"1": INACTIVE, "2": INACTIVE}


@pytest.mark.parametrize("way", ["poll", "current", "create"])
async def test_the_oldest_unused_version_makes_room(way: str) -> None:
    """Not the current one, none that drains, and none with pollers."""
    builds = ("1", "2", "3", "4", "5")
    async with opened("matching.maxVersionsInDeployment=5", 'matching.PollerHistoryTTL="9s"', builds=builds) as site:
        await site.current("1")
        await site.current("2")
        await site.backend.clock.advance(10)
        assert await site.poll("3") is None
        if way == "poll":
            assert await site.poll("9") is None
        elif way == "current":
            await site.current("9", allow_no_pollers=True)
        else:
            await site.call("CreateWorkerDeploymentVersion", deployment_version=_version("9"), request_id="r")
        assert list(await site.statuses()) == ["9", "5", "3", "2", "1"]


async def test_a_version_drained_since_the_last_check_makes_room() -> None:
    async with opened("matching.maxVersionsInDeployment=2") as site:
        await site.current("1")
        await site.current("2")
        await site.backend.clock.advance(400)
        assert await site.poll("3") is None
        assert await site.statuses() == {"2": CURRENT, "3": INACTIVE}


async def test_other_limits_can_be_set() -> None:
    limits = ("matching.maxDeployments=1", "matching.maxTaskQueuesInDeploymentVersion=1")
    async with opened(*limits, "matching.maxVersionsInTaskQueue=2") as site:
        with pytest.raises(ServiceError, match=r"cannot add task queue more since maximum number of task queues \(1\)"):
            await site.poll("1", queue="more")
        assert await site.poll("3") is None
        with pytest.raises(ServiceError, match=r"maximum number of Deployment Versions in this task queue"):
            await site.poll("4")
        with pytest.raises(ServiceError, match=r"reached maximum deployments in namespace \(1\)"):
            await site.call("CreateWorkerDeployment", deployment_name="e", request_id="r")


# ---- what else changes a deployment ----


async def test_a_deployment_made_anew_has_another_conflict_token(site: Site) -> None:
    first = await site.call("CreateWorkerDeployment", deployment_name="e", request_id="1")
    await site.call("DeleteWorkerDeployment", deployment_name="e")
    await site.backend.clock.advance(0.001)
    second = await site.call("CreateWorkerDeployment", deployment_name="e", request_id="2")
    assert first.conflict_token != second.conflict_token
    with pytest.raises(ServiceError, match="conflict token mismatch"):
        await site.call(
            "SetWorkerDeploymentManager", deployment_name="e", identity="me", manager_identity="me",
            conflict_token=first.conflict_token,
        )  # fmt: skip


async def test_a_deployment_that_polls_have_made_is_refused_as_such(site: Site) -> None:
    with pytest.raises(ServiceError, match=r'"d" already exists \(auto-created from worker polls\)'):
        await site.call("CreateWorkerDeployment", deployment_name="d", request_id="r")
    await site.call("CreateWorkerDeployment", deployment_name="e", request_id="r")
    with pytest.raises(ServiceError, match=r'"e" already exists$'):
        await site.call("CreateWorkerDeployment", deployment_name="e", request_id="other")


async def test_the_same_change_by_another_identity_updates_the_last_modifier(site: Site) -> None:
    first = await site.current("1", identity="one")
    assert (await site.current("1", identity="one", conflict_token=b"stale")).conflict_token == first.conflict_token
    with pytest.raises(ServiceError, match="conflict token mismatch"):
        await site.current("1", identity="two", conflict_token=b"stale")
    second = await site.current("1", identity="two")
    assert second.conflict_token != first.conflict_token
    info = (await site.call("DescribeWorkerDeployment", deployment_name="d")).worker_deployment_info
    assert (info.last_modifier_identity, info.routing_config.revision_number) == ("two", 1)


async def test_pollers_are_forgotten_when_their_time_is_over() -> None:
    async with opened('matching.PollerHistoryTTL="2s"') as site:
        asked = {"task_queue": {"name": "q"}, "task_queue_type": 1}
        assert {each.identity for each in (await site.call("DescribeTaskQueue", **asked)).pollers} == {"w1", "w2"}
        await site.backend.clock.advance(3)
        assert not (await site.call("DescribeTaskQueue", **asked)).pollers
        await site.call("DeleteWorkerDeploymentVersion", deployment_version=_version("1"))
        assert list(await site.statuses()) == ["2"]


async def test_a_version_with_recent_pollers_is_not_deleted(site: Site) -> None:
    await site.backend.clock.advance(299)
    with pytest.raises(ServiceError, match="active pollers"):
        await site.call("DeleteWorkerDeploymentVersion", deployment_version=_version("1"))


# ---- what runs tell of their workers ----


async def test_an_open_run_is_found_by_the_build_that_has_worked_on_it(site: Site) -> None:
    async def found(query: str) -> list[str]:
        reply = await site.call("ListWorkflowExecutions", query=query)
        return [each.execution.workflow_id for each in reply.executions]

    await site.start("w")
    task = await site.poll("")
    await site.call("RespondWorkflowTaskCompleted", task_token=task.task_token, worker_version_stamp={"build_id": "b1"})
    assert await found("BuildIds = 'unversioned:b1' AND ExecutionStatus = 'Running'") == ["w"]
    await site.signal("w")
    task = await site.poll("")
    await site.call("RespondWorkflowTaskCompleted", task_token=task.task_token, worker_version_stamp={"build_id": "b2"})
    for build_id in ("b1", "b2"):
        assert await found(f"BuildIds = 'unversioned:{build_id}' AND ExecutionStatus = 'Running'") == ["w"]
    await site.current("1")
    await site.start("v")
    await site.complete(await site.poll("1"), "1", PINNED)
    assert await found("TemporalUsedWorkerDeploymentVersions = 'd:1' AND ExecutionStatus = 'Running'") == ["v"]


@pytest.mark.parametrize("worker", [{}, {"deployment_options": {"deployment_name": "d", "build_id": "1"}}])
async def test_a_worker_without_a_version_can_not_say_how_a_workflow_behaves(site: Site, worker: Any) -> None:
    await site.start("w")
    task = await site.poll("")
    with pytest.raises(ServiceError, match="versioning behavior cannot be specified without") as refused:
        await site.call(
            "RespondWorkflowTaskCompleted", task_token=task.task_token, versioning_behavior=PINNED, **worker
        )
    assert refused.value.code is Code.INVALID_ARGUMENT
    await site.call("RespondWorkflowTaskCompleted", task_token=task.task_token)


async def test_a_query_of_a_run_whose_version_is_drained_without_workers_is_refused(site: Site) -> None:
    await site.current("1")
    await site.start("w")
    await site.complete(await site.poll("1"), "1", PINNED, COMPLETE)
    await site.current("2")
    await site.backend.clock.advance(GRACE_S)
    query: dict[str, Any] = {"execution": {"workflow_id": "w"}, "query": {"query_type": "q"}}
    with pytest.raises(ServiceError, match="no poller seen for task queue recently"):
        await site.within(30, site.call("QueryWorkflow", **query))  # its pollers are shown for five minutes
    await site.backend.clock.advance(300)
    with pytest.raises(ServiceError, match="PINNED to Worker Deployment Version 1, but 1 is drained") as refused:
        await site.call("QueryWorkflow", **query)
    assert refused.value.code is Code.FAILED_PRECONDITION
    await site.current("1")
    with pytest.raises(ServiceError, match="no poller seen for task queue recently"):
        await site.within(30, site.call("QueryWorkflow", **query))
