"""A run that is pinned to another version while a worker has its task goes on at that version.

Temporal hands a task that follows at once to the worker that asks, whatever the run is pinned to by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.parity import servers
from tests.parity.scenarios.deployments import AUTO_UPGRADE, current, options, registered, taken, version
from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parity.puppet import Puppet

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)


@pytest.fixture(scope="module")
def server() -> Iterator[servers.Server]:
    with servers.in_a_loop_of_its_own(servers.our_server("sqlite")) as address:
        yield address


async def _pinned_under_way(p: Puppet) -> Any:
    """A task that a worker of the second version has, of a run that is pinned to the first meanwhile, and signalled."""
    await registered(p, "1", "2")
    await current(p, "2")
    await p.start()
    task = await taken(p, "2")
    await p.call(
        "UpdateWorkflowExecutionOptions",
        workflow_execution=p.execution(),
        workflow_execution_options={
            "versioning_override": {
                "pinned": {"behavior": "PINNED_OVERRIDE_BEHAVIOR_PINNED", "version": version(p, "1")}
            }
        },
        update_mask={"paths": ["versioning_override"]},
    )
    await p.signal("go")
    return task


async def _answer(p: Puppet, task: Any, build_id: str, **fields: Any) -> Any:
    return await p.complete(
        task, versioning_behavior=AUTO_UPGRADE, return_new_workflow_task=True, **options(p, build_id), **fields
    )


async def test_the_task_that_follows_is_for_the_version(p: Puppet) -> None:
    answer = await _answer(p, await _pinned_under_way(p), "2")
    assert not answer.workflow_task.task_token
    answer = await _answer(p, await taken(p, "1"), "1")
    assert not answer.workflow_task.task_token


async def test_a_worker_of_the_version_is_handed_what_follows(p: Puppet) -> None:
    await _answer(p, await _pinned_under_way(p), "2")
    task = await taken(p, "1")
    await p.signal("again")
    assert (await _answer(p, task, "1")).workflow_task.task_token


async def test_a_heartbeat_goes_on_where_it_is(p: Puppet) -> None:
    task = await _pinned_under_way(p)
    assert (await _answer(p, task, "2", force_create_new_workflow_task=True)).workflow_task.task_token
