"""Standalone Nexus operations: their ends, id policies, timeouts, requests to cancel, lists, refused requests."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tests.parity.puppet import Refused, failure, payload, seconds
from tests.parity.scenarios import scenario, slow_scenario
from tests.parity.scenarios.nexus import LINK, endpoint, nexus_task, refuse, respond

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.parity.puppet import Puppet

TOKEN = {"async_success": {"operation_token": "token", "links": [LINK]}}


def _fields(p: Puppet, name: str = "o", **fields: Any) -> dict[str, Any]:
    return {
        "operation_id": p.id(name),
        "endpoint": p.id("endpoint"),
        "service": "svc",
        "operation": "op",
        "input": payload("in"),
        "nexus_header": {"Trace": "1"},
        "request_id": p.id(f"start-{name}"),
        "identity": "client",
        "schedule_to_close_timeout": seconds(60),
        **fields,
    }


async def _start(p: Puppet, name: str = "o", **fields: Any) -> Any:
    return await p.call("StartNexusOperationExecution", **_fields(p, name, **fields))


async def _describe(p: Puppet, name: str = "o", *, once: Callable[[Any], bool] | None = None) -> Any:
    """`once`: what has to hold of the operation first."""
    for _ in range(10000):
        described = await p.call(
            "DescribeNexusOperationExecution", record=False, operation_id=p.id(name),
            include_input=True, include_outcome=True,
        )  # fmt: skip
        if once is None or once(described.info):
            break
        await asyncio.sleep(0.03)
    # The real server forgets when it was asked to cancel.
    described.info.cancellation_info.ClearField("requested_time")
    p.note("described", p.normalised(described))
    return described


async def _outcome(p: Puppet, name: str = "o", **fields: Any) -> Any:
    return await p.call("PollNexusOperationExecution", operation_id=p.id(name), **fields)


async def _called(p: Puppet, **fields: Any) -> Any:
    await endpoint(p)
    await _start(p, **fields)
    return await nexus_task(p)


@scenario
async def answered_at_once(p: Puppet) -> None:
    task = await _called(p)
    await respond(p, task, start_operation={"sync_success": {"payload": payload("out"), "links": [LINK]}})
    await _outcome(p)
    await _describe(p)
    await respond(p, task, start_operation={"sync_success": {"payload": payload("again")}})


@scenario
async def without_result(p: Puppet) -> None:
    await respond(p, await _called(p), start_operation={"sync_success": {}})
    await _outcome(p)


@scenario
async def fails(p: Puppet) -> None:
    await respond(p, await _called(p), start_operation={"failure": failure("bad", "Kind", non_retryable=True)})
    await _outcome(p)
    await _describe(p)


@scenario
async def says_canceled(p: Puppet) -> None:
    canceled = {"message": "stopped", "canceled_failure_info": {}}
    await respond(p, await _called(p), start_operation={"failure": canceled})
    await _outcome(p)
    await _describe(p)


@scenario
async def refused_for_good(p: Puppet) -> None:
    await refuse(p, await _called(p), "BAD_REQUEST")
    await _outcome(p)
    await _describe(p)


@slow_scenario
async def refused_for_now(p: Puppet) -> None:
    await refuse(p, await _called(p), "UNAVAILABLE")
    await _describe(p, once=lambda info: info.HasField("last_attempt_failure"))
    task = await nexus_task(p)
    await respond(p, task, start_operation={"sync_success": {"payload": payload("out")}})
    await _outcome(p)


@scenario
async def goes_on_and_is_cancelled(p: Puppet) -> None:
    await respond(p, await _called(p), start_operation=TOKEN)
    await _outcome(p, wait_stage="NEXUS_OPERATION_WAIT_STAGE_STARTED")
    await _describe(p)
    asked: dict[str, Any] = {"operation_id": p.id("o"), "request_id": "c", "identity": "me", "reason": "enough"}
    await p.call("RequestCancelNexusOperationExecution", **asked)
    await p.call("RequestCancelNexusOperationExecution", **asked)
    await p.refused("RequestCancelNexusOperationExecution", **(asked | {"request_id": "other"}))
    await respond(p, await nexus_task(p), cancel_operation={})
    await _describe(p, once=lambda info: info.cancellation_info.HasField("last_attempt_complete_time"))


@scenario
async def cancelled_before_it_starts(p: Puppet) -> None:
    task = await _called(p)
    await p.call("RequestCancelNexusOperationExecution", operation_id=p.id("o"), request_id="c", reason="why")
    await _describe(p)
    await respond(p, task, start_operation=TOKEN)
    await nexus_task(p)


@scenario
async def terminated(p: Puppet) -> None:
    await _called(p)
    asked: dict[str, Any] = {"operation_id": p.id("o"), "request_id": "t", "identity": "me", "reason": "enough"}
    await p.call("TerminateNexusOperationExecution", **asked)
    await p.call("TerminateNexusOperationExecution", **asked)
    await p.refused("TerminateNexusOperationExecution", **(asked | {"request_id": "other"}))
    await p.refused("RequestCancelNexusOperationExecution", **asked)
    await _outcome(p)
    await _describe(p)


@scenario
async def a_closed_one_is_left_alone(p: Puppet) -> None:
    await respond(p, await _called(p), start_operation={"sync_success": {"payload": payload("out")}})
    await _outcome(p)
    await p.refused("TerminateNexusOperationExecution", operation_id=p.id("o"), request_id="t")
    await p.refused("RequestCancelNexusOperationExecution", operation_id=p.id("o"), request_id="t")


@slow_scenario
async def has_no_time(p: Puppet) -> None:
    await endpoint(p)
    await _start(p, schedule_to_close_timeout=seconds(0.5))
    await _outcome(p)
    await _describe(p)


@slow_scenario
async def takes_too_long(p: Puppet) -> None:
    await respond(p, await _called(p, start_to_close_timeout=seconds(1)), start_operation=TOKEN)
    await _outcome(p)
    await _describe(p)


@scenario
async def id_policies(p: Puppet) -> None:
    task = await _called(p)
    await _start(p)
    await p.refused("StartNexusOperationExecution", **_fields(p, request_id="other"))
    await _start(p, request_id="other", id_conflict_policy="NEXUS_OPERATION_ID_CONFLICT_POLICY_USE_EXISTING")
    await respond(p, task, start_operation={"sync_success": {"payload": payload("out")}})
    await _outcome(p)
    for policy in ("REJECT_DUPLICATE", "ALLOW_DUPLICATE_FAILED_ONLY"):
        fields = _fields(p, request_id=policy, id_reuse_policy=f"NEXUS_OPERATION_ID_REUSE_POLICY_{policy}")
        await p.refused("StartNexusOperationExecution", **fields)
    await _start(p, request_id="again")


@scenario
async def requests_that_are_refused(p: Puppet) -> None:
    await endpoint(p)
    for bad in (
        {"operation_id": ""},
        {"operation_id": "x" * 1001},
        {"endpoint": ""},
        {"endpoint": "nowhere"},
        {"service": ""},
        {"service": "s" * 1001},
        {"operation": ""},
        {"request_id": "r" * 1001},
        {"schedule_to_close_timeout": seconds(-1)},
        {"nexus_header": {"Request-Timeout": "1s"}},
        {"nexus_header": {"h": "x" * 9000}},
        {"search_attributes": {"indexed_fields": {"Unheard": payload("x")}}},
    ):
        await p.refused("StartNexusOperationExecution", **_fields(p, **bad))
    for method in ("Describe", "Poll", "RequestCancel", "Terminate", "Delete"):
        await p.refused(f"{method}NexusOperationExecution", operation_id="")
        await p.refused(f"{method}NexusOperationExecution", operation_id="nowhere")
        await p.refused(f"{method}NexusOperationExecution", operation_id="nowhere", run_id="x")
    await p.refused("DescribeNexusOperationExecution", operation_id="nowhere", long_poll_token=b"x")


@scenario
async def deleted(p: Puppet) -> None:
    await _called(p)
    await p.call("DeleteNexusOperationExecution", operation_id=p.id("o"))
    for _ in range(3000):
        with suppress(Refused):
            await p.call("DescribeNexusOperationExecution", record=False, operation_id=p.id("o"))
            await asyncio.sleep(0.1)
            continue
        break
    await p.refused("DescribeNexusOperationExecution", operation_id=p.id("o"))


@scenario
async def listed(p: Puppet) -> None:
    await respond(p, await _called(p), start_operation={"sync_success": {"payload": payload("out")}})
    await _outcome(p)
    for query in (
        f"OperationId = '{p.id('o')}'",
        f"Endpoint = '{p.id('endpoint')}' AND Service = 'svc' AND Operation = 'op'",
        f"Endpoint = '{p.id('endpoint')}' AND ExecutionStatus = 'Completed'",
        f"Endpoint = '{p.id('endpoint')}' AND Service = 'other'",
    ):
        for _ in range(3000):
            counted = await p.call("CountNexusOperationExecutions", record=False, query=query)
            if counted.count == (0 if "other" in query else 1):
                break
            await asyncio.sleep(0.1)
        await p.call("CountNexusOperationExecutions", query=query)
        await p.call("ListNexusOperationExecutions", query=query)
