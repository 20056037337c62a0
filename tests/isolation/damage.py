"""Damaged rows for tests, and what a backend says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from whistlestop.common.errors import Code, ServiceError
from whistlestop.storage.records import (
    ExecutionKey,
    ExecutionWrite,
    Transition,
)

if TYPE_CHECKING:
    from tests.isolation.backend import Backend
    from whistlestop.storage.interface import Store

JUNK = b"\xff\xfe\x00 not a message"
FAILED = "was set aside"


async def spoil(backend: Backend, workflow_id: str, run_id: str) -> ExecutionKey:
    """Overwrite the stored state of a run with what nobody can read, as damage on a disk would."""
    key = ExecutionKey(backend.namespace_id, workflow_id, run_id)
    stored = await backend.store.get_execution(key)
    assert stored is not None
    await backend.store.commit(
        Transition((
            ExecutionWrite(
                key, stored.slot, stored.db_record_version, JUNK, stored.next_event_id, stored.status, branch_id=run_id
            ),
        ))
    )  # fmt: skip
    return key


async def problems(store: Store) -> dict[str, str]:
    """What `db check` has to say of rows that were set aside: problems by table."""
    return {found.table: found.problem for found in await store.check(100) if FAILED in found.problem}


async def problems_by_key(store: Store) -> dict[str, str]:
    """The same of timers, by their keys."""
    return {
        found.key: found.problem
        for found in await store.check(100)
        if found.table == "timer_tasks" and FAILED in found.problem
    }


async def timer(backend: Backend, workflow_id: str, seconds: int) -> None:
    await backend.complete(
        workflow_id,
        {
            "command_type": 3,
            "start_timer_command_attributes": {"timer_id": "t", "start_to_fire_timeout": {"seconds": seconds}},
        },
    )


async def events(backend: Backend, workflow_id: str) -> list[str]:
    reply = await backend.call(
        "GetWorkflowExecutionHistory", namespace="default", execution={"workflow_id": workflow_id}
    )
    return [event.WhichOneof("attributes").removesuffix("_event_attributes") for event in reply.history.events]


async def refusal(backend: Backend, method: str, **fields: Any) -> Code:
    with pytest.raises(ServiceError) as refused:
        await backend.call(method, namespace="default", **fields)
    return refused.value.code


async def is_clean(backend: Backend) -> bool:
    return await backend.store.check(100) == []
