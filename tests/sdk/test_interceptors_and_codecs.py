"""What SDKs put around payloads: headers of interceptors, codecs, converters of failures."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, Interceptor, OutboundInterceptor, StartWorkflowInput, WorkflowHandle
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    StartActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)
from temporalio.worker import Interceptor as WorkerInterceptor

from tests.sdk.support import LONG, ONCE, cause_of, event_of, new, on_every_store, worker

if TYPE_CHECKING:
    from collections.abc import Sequence

TENANT = "tenant"
SEEN: dict[str, list[bytes]] = {}


@activity.defn
async def shout(text: str) -> str:
    return text.upper()


@activity.defn
async def fails(text: str) -> str:
    raise ApplicationError(f"a secret: {text}", type="Secret")


@workflow.defn
class Shouts:
    @workflow.run
    async def run(self, text: str, name: str) -> Any:
        return await workflow.execute_activity(
            name, text, start_to_close_timeout=LONG, retry_policy=ONCE, result_type=str
        )

    @workflow.query
    def state(self) -> str:
        return "a secret state"


class Codec(PayloadCodec):
    """Every byte turned over, under an encoding of its own."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload(metadata={"encoding": b"binary/turned"}, data=turned(payload.SerializeToString()))
            for payload in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload.FromString(turned(payload.data)) for payload in payloads]


def turned(data: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in data)


class Stamps(Interceptor, WorkerInterceptor):
    """Puts a tenant into headers on the way out, and notes it on the way in."""

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002 - the SDK's name
        return _OfClient(next)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:  # noqa: A002 - the SDK's name
        return _OfWorkflow

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        return _OfActivity(next)


class _OfClient(OutboundInterceptor):
    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:  # noqa: A002 - the SDK's name
        input.headers = {**input.headers, TENANT: Payload(data=b"acme")}
        return await super().start_workflow(input)


class _OfWorkflow(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_OutOfWorkflow(outbound))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002 - the SDK's name
        SEEN[workflow.info().workflow_id] = [input.headers[TENANT].data]
        return await super().execute_workflow(input)


class _OutOfWorkflow(WorkflowOutboundInterceptor):
    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:  # noqa: A002 - the SDK's name
        input.headers = {**input.headers, TENANT: Payload(data=b"acme's activity")}
        return super().start_activity(input)


class _OfActivity(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        SEEN[activity.info().workflow_id or ""].append(input.headers[TENANT].data)
        return await super().execute_activity(input)


def changed(client: Client, **options: Any) -> Client:
    """The same connection, other options."""
    config = client.config()
    config.update(options)  # type: ignore[typeddict-item]
    return Client(**config)


def secretive(client: Client) -> Client:
    converter = dataclasses.replace(
        DataConverter.default, payload_codec=Codec(),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )  # fmt: skip
    return changed(client, data_converter=converter)


@on_every_store
async def test_headers_reach_the_workflow_and_its_activity(client: Client) -> None:
    client = changed(client, interceptors=[Stamps()])
    async with worker(client, Shouts, activities=[shout]) as queue:
        handle = await client.start_workflow(Shouts.run, args=["hello", "shout"], id=new("shouts"), task_queue=queue)
        await handle.result()
    assert SEEN[handle.id] == [b"acme", b"acme's activity"]


@on_every_store
async def test_an_encoded_payload_comes_back(client: Client) -> None:
    secret = secretive(client)
    async with worker(secret, Shouts, activities=[shout]) as queue:
        handle = await secret.start_workflow(
            Shouts.run, args=["hello", "shout"], id=new("shouts"), task_queue=queue, memo={"key": "hello"}
        )
        assert await handle.result() == "HELLO"
        assert await handle.query(Shouts.state) == "a secret state"
        assert await (await handle.describe()).memo() == {"key": "hello"}


async def test_the_server_keeps_encoded_payloads_only(client: Client) -> None:
    secret = secretive(client)
    async with worker(secret, Shouts, activities=[shout]) as queue:
        handle = await secret.start_workflow(Shouts.run, args=["hello", "shout"], id=new("s"), task_queue=queue)
        await handle.result()
    kept = b"".join(event.SerializeToString() for event in (await handle.fetch_history()).events)
    assert b"hello" not in kept
    assert b"HELLO" not in kept
    assert b"binary/turned" in kept


async def test_an_encoded_failure_is_read_by_those_who_have_the_codec(client: Client) -> None:
    secret = secretive(client)
    async with worker(secret, Shouts, activities=[fails]) as queue:
        handle = await secret.start_workflow(Shouts.run, args=["hello", "fails"], id=new("s"), task_queue=queue)
        assert (await cause_of(handle.result(), ApplicationError)).message == "a secret: hello"
    failed = (await event_of(handle, "ACTIVITY_TASK_FAILED")).activity_task_failed_event_attributes
    assert (failed.failure.message, failed.failure.application_failure_info.type) == ("Encoded failure", "Secret")


async def test_a_header_is_kept_in_history(client: Client) -> None:
    client = changed(client, interceptors=[Stamps()])
    handle = await client.start_workflow("Any", id=new("any"), task_queue=new("queue"))
    started = (await event_of(handle, "WORKFLOW_EXECUTION_STARTED")).workflow_execution_started_event_attributes
    assert started.header.fields[TENANT].data == b"acme"
    await handle.terminate()
