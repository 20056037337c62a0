"""Worker deployments over a whole backend: who gets which task, and what operators see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.api.deployment_site import (
    AUTO_UPGRADE,
    CURRENT,
    DRAINED,
    DRAINING,
    INACTIVE,
    PINNED,
    RAMPING,
    Site,
    opened,
)
from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    async with opened() as made:
        yield made


async def test_a_workflow_goes_to_the_current_version_alone(site: Site) -> None:
    await site.current("1")
    await site.start("w")
    assert await site.poll("2") is None
    assert await site.poll("") is None
    assert (await site.poll("1")).workflow_execution.workflow_id == "w"


async def test_waiting_tasks_move_when_the_current_version_is_set(site: Site) -> None:
    """From unversioned workers to a version, to another, and back."""
    await site.start("w")
    await site.current("1")
    await site.current("2")
    assert await site.poll("1") is None
    await site.current("")
    assert await site.poll("2") is None
    assert (await site.poll("")).workflow_execution.workflow_id == "w"


async def test_pinned_stays_and_auto_upgrade_moves(site: Site) -> None:
    await site.current("1")
    for workflow_id, behavior in (("stays", PINNED), ("moves", AUTO_UPGRADE)):
        await site.start(workflow_id)
        await site.complete(await site.poll("1"), "1", behavior)
    await site.current("2")
    assert await site.statuses() == {"1": DRAINING, "2": CURRENT}
    for workflow_id in ("stays", "moves"):
        await site.signal(workflow_id)
    stays = await site.poll("1")
    assert stays.workflow_execution.workflow_id == "stays"
    assert await site.poll("1") is None
    assert (await site.poll("2")).workflow_execution.workflow_id == "moves"
    await site.complete(stays, "1", PINNED, [{"command_type": 4, "complete_workflow_execution_command_attributes": {}}])
    await site.backend.clock.advance(181)
    assert await site.statuses() == {"1": DRAINED, "2": CURRENT}


async def test_an_activity_of_a_pinned_workflow_goes_to_its_version(site: Site) -> None:
    await site.current("1")
    await site.start("w")
    task = await site.poll("1")
    await site.current("2")
    schedule = {
        "activity_id": "a",
        "activity_type": {"name": "A"},
        "task_queue": {"name": "q"},
        "start_to_close_timeout": {"seconds": 9},
    }
    command = {"command_type": 1, "schedule_activity_task_command_attributes": schedule}
    await site.complete(task, "1", PINNED, [command])
    assert await site.poll("2", "Activity") is None
    assert (await site.poll("1", "Activity")).activity_id == "a"


async def test_a_ramp_of_all_takes_new_workflows(site: Site) -> None:
    await site.current("1")
    await site.call("SetWorkerDeploymentRampingVersion", deployment_name="d", build_id="2", percentage=100)
    await site.start("w")
    assert await site.poll("1") is None
    assert (await site.poll("2")).workflow_execution.workflow_id == "w"


async def test_a_ramp_may_lead_back_to_unversioned_workers(site: Site) -> None:
    await site.current("1")
    await site.call("SetWorkerDeploymentRampingVersion", deployment_name="d", percentage=100)
    await site.start("w")
    assert await site.poll("1") is None
    assert (await site.poll("")).workflow_execution.workflow_id == "w"
    await site.call("SetWorkerDeploymentRampingVersion", deployment_name="d", percentage=0)
    await site.start("x")
    assert (await site.poll("1")).workflow_execution.workflow_id == "x"


async def test_a_version_without_workers_becomes_current_if_allow_no_pollers_is_set(site: Site) -> None:
    with pytest.raises(ServiceError, match="not found"):
        await site.current("9")
    await site.current("9", allow_no_pollers=True)
    await site.call("SetWorkerDeploymentRampingVersion", deployment_name="d", build_id="8", allow_no_pollers=True)
    assert (await site.statuses())["9"] == CURRENT
    assert await site.statuses() == {"1": INACTIVE, "2": INACTIVE, "8": RAMPING, "9": CURRENT}


async def test_a_pin_without_a_version_means_the_one_that_the_run_is_on(site: Site) -> None:
    await site.current("1")
    await site.start("w")
    task = await site.poll("1")
    change = {
        "workflow_execution": {"workflow_id": "w"}, "update_mask": {"paths": ["versioning_override"]},
        "workflow_execution_options": {"versioning_override": {"pinned": {"behavior": 1}}},
    }  # fmt: skip
    with pytest.raises(ServiceError, match="is not yet pinned to any version"):
        await site.call("UpdateWorkflowExecutionOptions", **change)
    await site.complete(task, "1", PINNED, [])
    changed = await site.call("UpdateWorkflowExecutionOptions", **change)
    assert changed.workflow_execution_options.versioning_override.pinned.version.build_id == "1"


async def _moving(site: Site) -> Any:
    """A task by which a run moves from version 1 to version 2."""
    await site.current("1")
    await site.start("w")
    schedule = {
        "activity_id": "a",
        "activity_type": {"name": "A"},
        "task_queue": {"name": "q"},
        "start_to_close_timeout": {"seconds": 9},
    }
    command = {"command_type": 1, "schedule_activity_task_command_attributes": schedule}
    await site.complete(await site.poll("1"), "1", AUTO_UPGRADE, [command])
    await site.current("2")
    await site.signal("w")
    return await site.poll("2")


async def _versioning(site: Site) -> Any:
    described = await site.call("DescribeWorkflowExecution", execution={"workflow_id": "w"})
    return described.workflow_execution_info.versioning_info


async def test_no_activity_starts_while_its_workflow_moves(site: Site) -> None:
    task = await _moving(site)
    info = await _versioning(site)
    assert (info.version_transition.deployment_version.build_id, info.deployment_version.build_id) == ("2", "1")
    assert info.revision_number == 2
    assert await site.poll("2", "Activity") is None
    await site.complete(task, "2", AUTO_UPGRADE)
    assert (await site.poll("2", "Activity")).activity_id == "a"
    info = await _versioning(site)
    assert (info.HasField("version_transition"), info.deployment_version.build_id) == (False, "2")


async def test_an_activity_that_a_newer_version_would_take_makes_its_workflow_move_first(site: Site) -> None:
    task = await _moving(site)
    await site.complete(task, "2", AUTO_UPGRADE)
    await site.current("1")
    assert await site.poll("1", "Activity") is None
    task = await site.poll("1")
    assert task.history.events[-1].event_type == 6  # started: there was nothing else to do for the workflow
    await site.complete(task, "1", AUTO_UPGRADE)
    assert (await site.poll("1", "Activity")).activity_id == "a"


async def test_a_worker_of_the_old_version_ends_no_move(site: Site) -> None:
    """Its task had begun before; another one follows at once."""
    task = await _moving(site)
    await site.complete(task, "2", AUTO_UPGRADE)
    await site.backend.clock.advance(1)
    await site.signal("w")
    task = await site.poll("2")
    await site.current("1")
    assert await site.poll("1", "Activity") is None
    await site.complete(task, "2", AUTO_UPGRADE)
    info = await _versioning(site)
    assert (info.version_transition.deployment_version.build_id, info.deployment_version.build_id) == ("1", "2")
    assert await site.poll("1", "Activity") is None
    await site.complete(await site.poll("1"), "1", AUTO_UPGRADE)
    assert (await site.poll("1", "Activity")).activity_id == "a"


async def test_a_pin_waits_for_the_move_under_way(site: Site) -> None:
    task = await _moving(site)
    override = {"pinned": {"behavior": 1, "version": {"deployment_name": "d", "build_id": "1"}}}
    await site.call(
        "UpdateWorkflowExecutionOptions", workflow_execution={"workflow_id": "w"},
        workflow_execution_options={"versioning_override": override}, update_mask={"paths": ["versioning_override"]},
    )  # fmt: skip
    assert (await _versioning(site)).version_transition.deployment_version.build_id == "2"
    assert await site.poll("1", "Activity") is None
    await site.complete(task, "2", AUTO_UPGRADE)
    info = await _versioning(site)
    assert not info.HasField("version_transition")
    assert info.versioning_override.pinned.version.build_id == "1"
    assert (await site.poll("1", "Activity")).activity_id == "a"


async def test_an_override_moves_the_waiting_task(site: Site) -> None:
    await site.current("1")
    await site.start("w")
    override = {"pinned": {"behavior": 1, "version": {"deployment_name": "d", "build_id": "2"}}}
    await site.call(
        "UpdateWorkflowExecutionOptions", workflow_execution={"workflow_id": "w"},
        workflow_execution_options={"versioning_override": override}, update_mask={"paths": ["versioning_override"]},
    )  # fmt: skip
    assert await site.poll("1") is None
    assert (await site.poll("2")).workflow_execution.workflow_id == "w"


async def test_an_unknown_version_cannot_be_pinned(site: Site) -> None:
    override = {"pinned": {"behavior": 1, "version": {"deployment_name": "d", "build_id": "9"}}}
    with pytest.raises(ServiceError) as refused:
        await site.start("w", versioning_override=override)
    assert refused.value.code is Code.FAILED_PRECONDITION
    await site.start("w")
    with pytest.raises(ServiceError) as refused:
        await site.call(
            "UpdateWorkflowExecutionOptions", workflow_execution={"workflow_id": "w"},
            workflow_execution_options={"versioning_override": override},
            update_mask={"paths": ["versioning_override"]},
        )  # fmt: skip
    assert refused.value.code is Code.FAILED_PRECONDITION


async def test_a_stale_conflict_token_and_another_manager_are_refused(site: Site) -> None:
    seen = (await site.current("1")).conflict_token
    await site.current("2", conflict_token=seen)
    with pytest.raises(ServiceError):
        await site.current("1", conflict_token=seen)
    await site.call("SetWorkerDeploymentManager", deployment_name="d", manager_identity="boss", identity="me")
    with pytest.raises(ServiceError):
        await site.current("1", identity="stranger")
    await site.current("1", identity="boss")
    assert await site.statuses() == {"1": CURRENT, "2": DRAINING}


async def test_an_unused_version_is_removed(site: Site) -> None:
    version = {"deployment_name": "d", "build_id": "1"}
    with pytest.raises(ServiceError, match="active pollers"):
        await site.call("DeleteWorkerDeploymentVersion", deployment_version=version)
    await site.backend.clock.advance(600)
    await site.call("DeleteWorkerDeploymentVersion", deployment_version=version)
    assert list(await site.statuses()) == ["2"]


async def test_a_description_checks_all_draining_versions_in_one_query(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many versions as a deployment can have, one of them with a pinned workflow that is open."""
    for build_id in map(str, range(8)):
        await site.poll(build_id)
        await site.poll(build_id, "Activity")
    for build_id in map(str, range(8)):
        await site.current(build_id)
        if build_id == "3":
            await site.start("pinned")
            task = await site.poll(build_id)
            await site.complete(task, build_id, PINNED)
    store: Any = site.backend.store
    counted = store.count_visibility_groups
    checks = []

    async def counting(*arguments: Any) -> Any:
        checks.append(arguments)
        return await counted(*arguments)

    monkeypatch.setattr(type(store), "count_visibility_groups", lambda _, *arguments: counting(*arguments))
    await site.statuses()
    assert checks == []
    await site.backend.clock.advance(181)
    for _ in range(2):
        assert await site.statuses() == {"7": CURRENT, "3": DRAINING} | dict.fromkeys("012456", DRAINED)
        assert len(checks) == 1
    await site.call("ListWorkerDeployments")
    assert len(checks) == 1


def _told(task: Any) -> bool:
    started = [event for event in task.history.events if event.event_type == 6][-1]
    return bool(started.workflow_task_started_event_attributes.target_worker_deployment_version_changed)


CONTINUE = {
    "command_type": 10,
    "continue_as_new_workflow_execution_command_attributes": {
        "workflow_type": {"name": "T"},
        "task_queue": {"name": "q"},
    },
}


async def test_a_pinned_run_that_declined_an_upgrade_is_not_notified_again(site: Site) -> None:
    """However often it continues as new; the next change of the routing is told once more."""
    await site.current("1")
    await site.start("w")
    await site.complete(await site.poll("1"), "1", PINNED)
    for route, expected in (("2", True), (None, False), (None, False), ("1", False), ("2", True), ("", True)):
        if route is not None:
            await site.current(route)
        await site.backend.clock.advance(2)
        await site.signal("w")
        task = await site.poll("1")
        assert _told(task) == expected, route
        await site.complete(task, "1", PINNED, [CONTINUE])
        await site.backend.clock.advance(2)
        task = await site.poll("1")
        assert not _told(task)
        await site.complete(task, "1", PINNED)


async def test_notifications_of_new_targets_can_be_disabled() -> None:
    async with opened("system.enableSendTargetVersionChanged=false") as site:
        await site.current("1")
        await site.start("w")
        await site.complete(await site.poll("1"), "1", PINNED)
        await site.current("2")
        await site.backend.clock.advance(2)
        await site.signal("w")
        assert not _told(await site.poll("1"))
