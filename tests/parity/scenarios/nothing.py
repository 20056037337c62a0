"""Unset, empty and null: what is said of a value that is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity import commands as c
from tests.parity.puppet import payload
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

NULLS: dict[str, dict[str, Any]] = {
    "binary": {"metadata": {"encoding": b"binary/null"}},
    "json": {"metadata": {"encoding": b"json/plain"}, "data": b"null"},
}


def _memos() -> dict[str, dict[str, Any]]:
    return {
        "empty": {},
        "nulls": {"fields": {"a": NULLS["binary"], "b": NULLS["json"]}},
        "some": {"fields": {"a": NULLS["binary"], "b": payload("b")}},
    }


def _attributes() -> dict[str, dict[str, Any]]:
    return {
        "empty": {},
        "nulls": {"indexed_fields": {"ParityKeyword": NULLS["binary"], "ParityText": NULLS["json"]}},
        "some": {"indexed_fields": {"ParityKeyword": NULLS["json"], "ParityInt": {"metadata": {"encoding": b"json/plain"}, "data": b"5"}}},
    }  # fmt: skip


@scenario
async def memos_and_attributes_of_starts(p: Puppet) -> None:
    for name, memo in _memos().items():
        await p.start(p.id(name), memo=memo, search_attributes=_attributes()[name])
        await p.history(p.id(name))
        await p.describe(p.id(name))
        await p.terminate(p.id(name))


@scenario
async def memos_and_attributes_of_children(p: Puppet) -> None:
    for name, memo in _memos().items():
        await p.start(p.id(f"parent-{name}"), task_queue={"name": p.id(name)})
        task = await p.workflow_task(p.id(name), record=False)
        await p.complete(task, c.child(p.id(name), p.id("nobody"), memo=memo, search_attributes=_attributes()[name]))
        await p.has_event("child_workflow_execution_started", p.id(f"parent-{name}"))
        await p.has_event("workflow_task_scheduled", p.id(name))
        await p.has_event("workflow_task_scheduled", p.id(f"parent-{name}"), count=2)
        await p.history(p.id(name))
        await p.history(p.id(f"parent-{name}"))
        await p.terminate(p.id(name))
        await p.terminate(p.id(f"parent-{name}"))


@scenario
async def memos_and_attributes_of_further_runs(p: Puppet) -> None:
    for name, memo in _memos().items():
        await p.start(p.id(name), task_queue={"name": p.id(name)}, memo={"fields": {"first": payload("1")}})
        task = await p.workflow_task(p.id(name), record=False)
        await p.complete(task, c.continue_as_new(p.id(name), memo=memo, search_attributes=_attributes()[name]))
        await p.history(p.id(name), task.workflow_execution.run_id)
        await p.history(p.id(name))
        await p.terminate(p.id(name))


@scenario
async def memos_and_attributes_of_commands(p: Puppet) -> None:
    for name, memo in _memos().items():
        await p.start(p.id(name), task_queue={"name": p.id(name)}, memo={"fields": {"a": payload("1")}})
        for command in (
            c.command("modify_workflow_properties", upserted_memo=memo),
            c.command("upsert_workflow_search_attributes", search_attributes=_attributes()[name]),
        ):
            await p.signal("s", workflow_id=p.id(name))
            task = await p.workflow_task(p.id(name), record=False)
            await p.attempt(
                "RespondWorkflowTaskCompleted", task_token=task.task_token, commands=[command], identity="worker"
            )
        await p.history(p.id(name))
        await p.terminate(p.id(name))


@scenario
async def what_signals_and_starts_carry(p: Puppet) -> None:
    """Each field unset, then empty."""
    for name, fields in (("unset", {}), ("empty", {"input": {}, "header": {}}), ("one", {"input": {"payloads": [{}]}})):
        given: dict[str, Any] = dict(fields)
        await p.start(p.id(name), task_queue={"name": p.id(name)}, **given)
        await p.call("SignalWorkflowExecution", workflow_execution=p.execution(p.id(name)), signal_name="s", **given)
        await p.call(
            "SignalWithStartWorkflowExecution", **p.start_fields(p.id(f"{name}-s"), **given), signal_name="s",
            signal_input=given.get("input"),
        )  # fmt: skip
        task = await p.workflow_task(p.id(name))
        await p.complete(
            task, c.activity("a", p.id(name), **given),
            c.command("record_marker", marker_name="m", **({"details": {"d": {}}} if given else {})),
        )  # fmt: skip
        task = await p.activity_task(p.id(name))
        await p.call("RecordActivityTaskHeartbeat", task_token=task.task_token, details=given.get("input"))
        await p.call("RespondActivityTaskCompleted", task_token=task.task_token, result=given.get("input"))
        await p.describe(p.id(name))
        task = await p.workflow_task(p.id(name))
        await p.complete(task, c.command("complete_workflow_execution", result=given.get("input")))
        await p.history(p.id(name))
        await p.history(p.id(f"{name}-s"))
        await p.terminate(p.id(f"{name}-s"), details=given.get("input"))
