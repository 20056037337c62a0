"""Of a request with two faults, the same one is told of as on the real server, in the same words.

Authentication and authorization come first here, on purpose; the caller of these requests may do all.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from temporalio.api.common.v1.grpc_status_pb2 import GrpcStatus

from tests.parity import servers, two_faults
from tests.parity.normalise import Normaliser

if TYPE_CHECKING:
    from whistlestop.frontend.registry import RpcSpec

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.timeout(300)]
AT_ONCE = 6
RUN = re.compile(r"<uuid \d+>")

# Where ours differs, and why: (RPC, what ours says, reason). docs/compatibility.md has them all.
ON_PURPOSE: tuple[tuple[str, str, str], ...] = (
    ("List.*|Scan.*", "invalid page token|invalid next_page_token", "a bad token is the caller's mistake"),
    ("ResetWorkflowExecution", "unknown reset reapply type", "the real server hides it behind an internal error"),
    ("ListWorkers|CountWorkers", "malformed query", "a filter is read although nobody is listed"),
    ("DescribeWorker", "Namespace <uuid> is not found", "no worker has been seen in the namespace"),
    ("DescribeNamespace", "", "an id that is none is the caller's mistake, not an unknown error"),
    ("DescribeBatchOperation", "WorkflowId exceeds length limit", "an id that no job can have is refused"),
    ("DescribeTaskQueue", "^$", "an unknown mode is passed over"),
    ("UpdateActivityOptions", "ActivityOptions are not provided", "checked before the run is read"),
    (".*WorkerDeployment.*", "Worker Deployment", "a deployment is a row here, and workflows with rate limits there"),
)

Answer = tuple[str, str, tuple[str, ...]]


def _status(error: grpc.aio.AioRpcError) -> GrpcStatus:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return GrpcStatus.FromString(value if isinstance(value, bytes) else value.encode())
    return GrpcStatus(message=error.details() or "")


async def _ask(channel: grpc.aio.Channel, spec: RpcSpec, request: Any) -> Answer:
    call = channel.unary_unary(
        f"/{spec.full_name}", request_serializer=lambda data: data, response_deserializer=lambda data: data
    )
    try:
        await call(request.SerializeToString(), timeout=20)
    except grpc.aio.AioRpcError as error:
        status = _status(error)
        text = RUN.sub("<uuid>", Normaliser("no prefix").text(status.message))
        return error.code().name, text[:200], tuple(each.type_url.rpartition("/")[2] for each in status.details)
    return "OK", "", ()


async def _differences(spec: RpcSpec, real: grpc.aio.Channel, ours: grpc.aio.Channel) -> list[str]:
    """One request after the other: what some of them do, the next ones meet on both servers."""
    found = []
    for what, request in two_faults.requests(spec):
        expected, actual = await asyncio.gather(_ask(real, spec, request), _ask(ours, spec, request))
        limited = expected[0] == "RESOURCE_EXHAUSTED"
        if expected != actual and not limited and not _is_on_purpose(spec.method, actual[1]):
            found.append(f"{spec.method}: {what}\n   real: {expected}\n   ours: {actual}")
    return found


def _is_on_purpose(method: str, message: str) -> bool:
    return any(re.fullmatch(rpc, method) and re.search(said, message) for rpc, said, _ in ON_PURPOSE)


async def test_both_servers_report_the_same_of_two_faults() -> None:
    async with (
        servers.real_server() as real_address,
        servers.our_server("memory") as our_address,
        grpc.aio.insecure_channel(real_address) as real,
        grpc.aio.insecure_channel(our_address) as ours,
    ):
        turns = asyncio.Semaphore(AT_ONCE)

        async def compare(spec: RpcSpec) -> list[str]:
            async with turns:
                return await _differences(spec, real, ours)

        found = await asyncio.gather(*(compare(spec) for spec in two_faults.rpcs()))
    differences = [each for of_one in found for each in of_one]
    assert differences == [], "\n".join(differences[:20])
