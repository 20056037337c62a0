"""Every kind of task token at every RPC that takes one: accepted once, for what was handed out, and for nothing else.

Which RPCs take a token is read from the descriptors: a new one, and a new field that looks like a token, fails here
until it is said what it takes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.security.town import CALL_OPERATION, QUEUE, SCHEDULE_ACTIVITY, SPECS, Town, town
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.common.rpcs.history_service import HistoryService

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

REFUSALS = {Code.INVALID_ARGUMENT, Code.NOT_FOUND}
FOREIGN = "INVALID_ARGUMENT: Operation requested with a token from a different namespace."


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Town]:
    async with town() as made:
        yield made


# ---- the kinds -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Handed:
    """A token, and the namespace that it was handed out to."""

    token: bytes
    namespace: str = "victim"
    waiting: asyncio.Future[Any] | None = None
    """Somebody who waits for the answer."""


async def of_workflow_task(place: Town) -> Handed:
    await place.start()
    return Handed((await place.poll("Workflow")).task_token)


async def of_activity(place: Town) -> Handed:
    await place.start()
    await place.turn("victim", SCHEDULE_ACTIVITY)
    return Handed((await place.poll("Activity")).task_token)


async def of_standalone_activity(place: Town) -> Handed:
    await place.call(
        "StartActivityExecution", "victim", activity_id="s", request_id="s", activity_type={"name": "A"},
        task_queue=QUEUE, start_to_close_timeout={"seconds": 60},
    )  # fmt: skip
    return Handed((await place.poll("Activity")).task_token)


async def of_query(place: Town) -> Handed:
    await place.start()
    await place.turn()
    asked = asyncio.ensure_future(
        place.call("QueryWorkflow", "victim", execution={"workflow_id": "w"}, query={"query_type": "q"})
    )
    return Handed((await place.poll("Workflow")).task_token, waiting=asked)


async def of_nexus_task(place: Town) -> Handed:
    await place.start()
    await place.turn("victim", CALL_OPERATION)
    return Handed((await place.poll("Nexus", "bank")).task_token, "bank")


async def of_nexus_cancel_task(place: Town) -> Handed:
    started = await of_nexus_task(place)
    await place.call(
        "RespondNexusTaskCompleted", "bank", task_token=started.token,
        response={"start_operation": {"async_success": {"operation_token": "o"}}},
    )  # fmt: skip
    cancel = {
        "command_type": "COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION",
        "request_cancel_nexus_operation_command_attributes": {"scheduled_event_id": 5},
    }
    await place.turn("victim", cancel)
    return Handed((await place.poll("Nexus", "bank")).task_token, "bank")


async def of_nexus_request(place: Town) -> Handed:
    asked = place.dispatch("bank")
    return Handed((await place.poll("Nexus", "bank")).task_token, "bank", asked)


KINDS: dict[str, Callable[[Town], Awaitable[Handed]]] = {
    "workflow task": of_workflow_task,
    "activity": of_activity,
    "standalone activity": of_standalone_activity,
    "query": of_query,
    "Nexus task": of_nexus_task,
    "Nexus cancel task": of_nexus_cancel_task,
    "Nexus request": of_nexus_request,
}
_FAILURE = {"message": "f", "application_failure_info": {"type": "t"}}
_HANDLER_FAILURE = {"message": "f", "nexus_handler_failure_info": {"type": "BAD_REQUEST"}}
_SUCCESS = {"start_operation": {"sync_success": {"payload": {"data": b'"paid"'}}}}
_ACTIVITIES = ("activity", "standalone activity")
_NEXUS = ("Nexus task", "Nexus cancel task", "Nexus request")

TAKEN: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "RespondWorkflowTaskCompleted": (("workflow task",), {}),
    "RespondWorkflowTaskFailed": (("workflow task",), {}),
    "RecordActivityTaskHeartbeat": (_ACTIVITIES, {}),
    "RespondActivityTaskCompleted": (_ACTIVITIES, {}),
    "RespondActivityTaskFailed": (_ACTIVITIES, {"failure": _FAILURE}),
    "RespondActivityTaskCanceled": (_ACTIVITIES, {}),
    "RespondQueryTaskCompleted": (("query",), {"completed_type": 1}),
    "RespondNexusTaskCompleted": (_NEXUS, {"response": _SUCCESS}),
    "RespondNexusTaskFailed": (_NEXUS, {"failure": _HANDLER_FAILURE}),
}
"""RPC -> the kinds of token that it takes, and the rest of a request."""
CASES = [(method, kind) for method, (kinds, _) in TAKEN.items() for kind in kinds]
NOT_CANCELLED = "INVALID_ARGUMENT: unable to mark activity as canceled without activity being request canceled first"


# ---- that nothing is missing -----------------------------------------------------------------------------------------


def test_every_rpc_with_a_task_token_is_in_the_table() -> None:
    """Generated from the descriptors: a new RPC fails here until it is known what it takes."""
    assert {method for method, spec in SPECS.items() if spec.by_token} == set(TAKEN)
    assert {kind for kinds, _ in TAKEN.values() for kind in kinds} == set(KINDS)


PAGE_TOKENS, CONFLICT_TOKENS = "test_page_tokens.py", "test_conflict_tokens"
KNOWN_FIELDS = {
    "task_token": "this file",
    "next_page_token": PAGE_TOKENS,
    "conflict_token": CONFLICT_TOKENS,
    "long_poll_token": "test_long_poll_tokens",
    "operation_token": "a handler's own, which the server hands back to it alone",
    "security_token": "of multi-cluster set-ups: not read",
}


def _token_fields(message: Any, seen: frozenset[str] = frozenset()) -> set[str]:
    found = set()
    for field in message.fields:
        if "token" in field.name:
            found.add(field.name)
        inner = field.message_type
        if inner is not None and inner.full_name not in seen:
            found |= _token_fields(inner, seen | {inner.full_name})
    return found


def test_every_field_that_is_a_token_is_tried_somewhere() -> None:
    found: set[str] = set()
    for spec in SPECS.values():
        found |= _token_fields(spec.request_type.DESCRIPTOR)
    assert found == set(KNOWN_FIELDS)


# ---- what is refused -------------------------------------------------------------------------------------------------


async def _refused(place: Town, method: str, namespace: str, token: bytes, caller: str = "root") -> str:
    """The refusal; asserts that it is one."""
    refusal = await place.refusal(method, namespace, caller, task_token=token, **TAKEN[method][1])
    assert refusal, f"{method} accepted {token!r} in {namespace!r}"
    return refusal


@pytest.mark.parametrize(("method", "kind"), CASES)
async def test_a_token_goes_with_no_other_namespace(place: Town, method: str, kind: str) -> None:
    """As it is, rewritten for the other namespace, and without a namespace; then where it belongs."""
    handed = await KINDS[kind](place)
    before = await place.stored()
    assert await _refused(place, method, "mallory", handed.token) == FOREIGN
    assert await _refused(place, method, "mallory", handed.token, "mallory-worker") == FOREIGN
    assert (await _refused(place, method, "", handed.token, "mallory-worker")).startswith("PERMISSION_DENIED")
    assert (await _refused(place, method, handed.namespace, handed.token, "mallory-admin")).startswith(
        "PERMISSION_DENIED"
    )
    for own in ({}, {"caller_namespace_id": place.ids["mallory"]}, {"nonce": 0}):
        token = TaskToken.FromString(handed.token)
        token.namespace_id = place.ids["mallory"]
        for field, value in own.items():
            setattr(token, field, value)
        refusal = await _refused(place, method, "mallory", token.SerializeToString(), "mallory-worker")
        assert refusal.startswith(("NOT_FOUND", "INVALID_ARGUMENT")), refusal
    assert await place.stored() == before
    assert await _served(place, method, handed)
    await _let_go(handed)


async def _served(place: Town, method: str, handed: Handed) -> bool:
    """The true token is accepted; an activity that nobody has cancelled is not cancelled, which is said of it alone."""
    refusal = await place.refusal(method, handed.namespace, task_token=handed.token, **TAKEN[method][1])
    return refusal == (NOT_CANCELLED if method == "RespondActivityTaskCanceled" else "")


async def _let_go(handed: Handed) -> None:
    if handed.waiting is not None:
        handed.waiting.cancel()
        await asyncio.gather(handed.waiting, return_exceptions=True)


@pytest.mark.parametrize(("method", "kind"), CASES)
async def test_an_altered_or_cut_token_is_refused(place: Town, method: str, kind: str) -> None:
    """Each byte of it, in two ways, and each length."""
    handed = await KINDS[kind](place)
    before = await place.stored()
    token = handed.token
    altered = [
        token[:at] + bytes((token[at] ^ bit,)) + token[at + 1 :] for at in range(len(token)) for bit in (1, 0x80)
    ]
    cut = [token[:length] for length in range(len(token))]
    for each in altered + cut:
        refusal = await _refused(place, method, handed.namespace, each)
        assert refusal.startswith(("NOT_FOUND", "INVALID_ARGUMENT")), (each, refusal)
    assert await place.stored() == before
    assert await _served(place, method, handed)
    await _let_go(handed)


@pytest.mark.parametrize("method", TAKEN)
async def test_a_token_of_another_kind_is_refused(place: Town, method: str) -> None:
    kinds, _ = TAKEN[method]
    for kind in KINDS.keys() - set(kinds):
        async with town() as another:
            handed = await KINDS[kind](another)
            before = await another.stored()
            refusal = await _refused(another, method, handed.namespace, handed.token)
            assert refusal.startswith(("NOT_FOUND", "INVALID_ARGUMENT")), (kind, refusal)
            assert await another.stored() == before
            await _let_go(handed)


ENDING = [case for case in CASES if case[0] not in ("RecordActivityTaskHeartbeat", "RespondActivityTaskCanceled")]


@pytest.mark.parametrize(("method", "kind"), ENDING)
async def test_a_token_is_accepted_once(place: Town, method: str, kind: str) -> None:
    """What it answered is over: no RPC takes it again."""
    handed = await KINDS[kind](place)
    assert await _served(place, method, handed)
    before = await place.stored()
    for again in (other for other, (kinds, _) in TAKEN.items() if kind in kinds):
        assert (await _refused(place, again, handed.namespace, handed.token)).startswith("NOT_FOUND")
    assert await place.stored() == before
    await _let_go(handed)


ATTEMPTED = [case for case in CASES if case[1] not in ("query", "Nexus request")]
_LATER_S = {"workflow task": 11, "activity": 62, "standalone activity": 62, "Nexus task": 12, "Nexus cancel task": 12}


@pytest.mark.parametrize(("method", "kind"), ATTEMPTED)
async def test_a_token_of_an_earlier_attempt_is_refused(place: Town, method: str, kind: str) -> None:
    """Its time ran out and the task was handed out again: only what was handed out last counts."""
    handed = await KINDS[kind](place)
    polled = {"workflow task": "Workflow"}.get(kind, "Nexus" if kind in _NEXUS else "Activity")
    await place.later(_LATER_S[kind])
    latest = Handed((await place.poll(polled, handed.namespace)).task_token, handed.namespace)
    before = await place.stored()
    assert (await _refused(place, method, handed.namespace, handed.token)).startswith("NOT_FOUND")
    stale = TaskToken.FromString(latest.token)
    stale.nonce = TaskToken.FromString(handed.token).nonce
    assert (await _refused(place, method, handed.namespace, stale.SerializeToString())).startswith("NOT_FOUND")
    assert await place.stored() == before
    assert await _served(place, method, latest)


@pytest.mark.parametrize(("method", "kind"), ATTEMPTED)
async def test_a_made_up_token_without_the_nonce_is_refused(place: Town, method: str, kind: str) -> None:
    """A worker of the same namespace can know the rest of it from histories and descriptions."""
    handed = await KINDS[kind](place)
    before = await place.stored()
    for nonce in (0, 1, TaskToken.FromString(handed.token).nonce ^ 1 << 63):
        forged = TaskToken.FromString(handed.token)
        forged.nonce = nonce
        assert (await _refused(place, method, handed.namespace, forged.SerializeToString())).startswith("NOT_FOUND")
    assert await place.stored() == before
    assert await _served(place, method, handed)


async def test_a_request_that_no_worker_has_taken_is_not_answered(place: Town) -> None:
    """The token of a Nexus task that waits in its queue can be guessed but for the nonce, of which there is none yet."""
    run_id = await place.start()
    await place.turn("victim", CALL_OPERATION)
    forged = TaskToken(
        namespace_id=place.ids["bank"], caller_namespace_id=place.ids["victim"], workflow_id="w", run_id=run_id,
        scheduled_event_id=5, stamp=1,
    )  # fmt: skip
    refusal = await _refused(place, "RespondNexusTaskCompleted", "bank", forged.SerializeToString())
    assert refusal.startswith("NOT_FOUND")


async def test_a_query_is_answered_by_its_own_run_alone(place: Town) -> None:
    """Also beside a workflow task, where the id of the query alone says which one is meant."""
    handed = await of_query(place)
    query_id = TaskToken.FromString(handed.token).query_id
    await place.start("mallory")
    task = await place.poll("Workflow", "mallory")
    await place.call(
        "RespondWorkflowTaskCompleted", "mallory", "mallory-worker", task_token=task.task_token,
        query_results={query_id: {"result_type": 1, "answer": {"payloads": [{"data": b'"forged"'}]}}},
    )  # fmt: skip
    assert handed.waiting is not None
    assert not handed.waiting.done()
    await place.call("RespondQueryTaskCompleted", "victim", task_token=handed.token, completed_type=1)
    assert (await handed.waiting).query_result.payloads == []


# ---- by id -----------------------------------------------------------------------------------------------------------

BY_ID = sorted(method for method in SPECS if method.endswith("ById"))


@pytest.mark.parametrize("kind", _ACTIVITIES)
@pytest.mark.parametrize("method", BY_ID)
async def test_an_activity_is_named_by_its_id_in_its_own_namespace_alone(place: Town, method: str, kind: str) -> None:
    await KINDS[kind](place)
    named = {"workflow_id": "w", "activity_id": "a"} if kind == "activity" else {"activity_id": "s"}
    before = await place.stored()
    for caller, namespace, expected in (
        ("mallory-worker", "victim", "PERMISSION_DENIED"),
        ("mallory-worker", "mallory", "NOT_FOUND"),
        ("victim-read", "victim", "PERMISSION_DENIED"),
    ):
        assert (await place.refusal(method, namespace, caller, **named)).startswith(expected), (caller, namespace)
    assert await place.stored() == before
    cancels = method == "RespondActivityTaskCanceledById"
    rest = {"failure": _FAILURE} if "Failed" in method else {}
    assert await place.refusal(method, "victim", "victim-worker", **named, **rest) == (NOT_CANCELLED if cancels else "")


# ---- other tokens ----------------------------------------------------------------------------------------------------


async def test_long_poll_tokens(place: Town) -> None:
    """They say what was seen of one run, and grant nothing."""
    await of_standalone_activity(place)
    seen = await place.call("DescribeActivityExecution", "victim", activity_id="s")
    assert seen.long_poll_token
    for token in (b"x", seen.long_poll_token[:-1] + b"\xc2\xb2", b"\xff", seen.long_poll_token + b"9" * 5000):
        refusal = await place.refusal(
            "DescribeActivityExecution", "victim", activity_id="s", run_id=seen.run_id, long_poll_token=token
        )
        assert refusal.startswith("INVALID_ARGUMENT"), token
    refusal = await place.refusal(
        "DescribeActivityExecution",
        "mallory",
        activity_id="s",
        run_id=seen.run_id,
        long_poll_token=seen.long_poll_token,
    )
    assert refusal.startswith("NOT_FOUND")


async def test_conflict_tokens(place: Town) -> None:
    """They say which state was seen; the namespace is the request's, whatever they say."""
    schedule = {"spec": {"interval": [{"interval": {"seconds": 3600}}]}}
    action = {"start_workflow": {"workflow_id": "w", "workflow_type": {"name": "T"}, "task_queue": QUEUE}}
    for namespace in ("victim", "mallory"):
        await place.call(
            "CreateSchedule", namespace, schedule_id="s", request_id="r", schedule={**schedule, "action": action}
        )
        await place.call("CreateWorkerDeployment", namespace, deployment_name="d", request_id="r", identity="i")
    seen = await place.call("DescribeSchedule", "victim", schedule_id="s")
    changed: dict[str, Any] = {"schedule_id": "s", "schedule": {**schedule, "action": action}}
    for token in (seen.conflict_token[:-1], seen.conflict_token + b"x", b"\0" * 8, b"\xff" * 8):
        refusal = await place.refusal("UpdateSchedule", "victim", **changed, conflict_token=token)
        assert refusal == "FAILED_PRECONDITION: mismatched conflict token", token
    theirs = await place.call("DescribeWorkerDeployment", "victim", deployment_name="d")
    calls: tuple[tuple[str, dict[str, Any]], ...] = (
        ("UpdateSchedule", {**changed, "conflict_token": seen.conflict_token}),
        (
            "SetWorkerDeploymentManager",
            {"deployment_name": "d", "manager_identity": "m", "conflict_token": theirs.conflict_token},
        ),
    )
    for method, fields in calls:
        refusal = await place.refusal(method, "victim", "mallory-admin", **fields)
        assert refusal.startswith("PERMISSION_DENIED")
    for token in (theirs.conflict_token[:-1], theirs.conflict_token + b"x", b"\xff" * 8):
        refusal = await place.refusal(
            "SetWorkerDeploymentManager", "victim", deployment_name="d", manager_identity="m", identity="i",
            conflict_token=token,
        )  # fmt: skip
        assert refusal == "FAILED_PRECONDITION: conflict token mismatch", token


async def test_a_task_that_is_polled_again_after_a_lost_answer_has_the_same_token(place: Town) -> None:
    """The start is idempotent by its request id, so that the answer may be asked for again."""
    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.internal_pb2 import RecordWorkflowTaskStartedRequest

    run_id = await place.start()
    [task] = await place.store.list_tasks(place.ids["victim"], "q", 1, None, 10)
    request = RecordWorkflowTaskStartedRequest(
        scheduled_event_id=task.scheduled_event_id, stamp=task.stamp, request_id="once", task_queue="q"
    )
    request.execution.workflow_id, request.execution.run_id = "w", run_id
    context = CallContext(namespace_id=place.ids["victim"], namespace="victim")
    replies: list[Any] = [
        await place.history.call(HistoryService.RecordWorkflowTaskStarted, request, context) for _ in range(2)
    ]
    tokens = [rr.PollWorkflowTaskQueueResponse.FromString(reply.data).task_token for reply in replies]
    assert tokens[0] == tokens[1]
    request.request_id = "another"
    with pytest.raises(ServiceError, match="already started"):
        await place.history.call(HistoryService.RecordWorkflowTaskStarted, request, context)
