"""Whole services over one store, with namespaces that must not reach each other, and keys for each of them."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.patience import PATIENCE_S
from tests.simulation.backend import Backend
from tests.simulation.faults import Weather
from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError
from whistlestop.common.proto.nexus_pb2 import DispatchNexusTaskRequest
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.frontend.auth.config import AuthConfig
from whistlestop.frontend.auth.keys import ApiKey, hash_of, render
from whistlestop.frontend.config import FrontendConfig
from whistlestop.frontend.own_rpcs import OWN_REGISTRY
from whistlestop.frontend.registry import REGISTRY
from whistlestop.frontend.service import Frontend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

    from whistlestop.frontend.registry import RpcSpec

ROLES = ("read", "worker", "write", "admin")
NAMESPACES = ("victim", "bank", "mallory")
SPECS: dict[str, RpcSpec] = {spec.method: spec for spec in (REGISTRY | OWN_REGISTRY).values()}
QUEUE = {"name": "q"}
WORKFLOW_TYPE = {"name": "T"}
ENDPOINT = "bank-endpoint"
_OPERATOR = "root"


def _secret(name: str) -> str:
    return f"wsk_secret-of-{name}"


def _keys() -> str:
    grants = {f"{namespace}-{role}": f"{namespace}:{role}" for namespace in NAMESPACES for role in ROLES}
    grants[_OPERATOR] = "temporal-system:admin"
    return render(ApiKey(name, hash_of(_secret(name)), (grant,)) for name, grant in grants.items())


class Town:
    """The three namespaces, and an endpoint that leads into `bank`."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        process = backend.processes[0]
        self.history, self.store, self.clock = process.history, backend.store, backend.clock
        self.frontend = Frontend(
            process.store, process.history, process.matching, backend.clock, backend.ids,
            FrontendConfig(
                auth=AuthConfig(_keys()), worker_versioning_data_apis=True, worker_versioning_rule_apis=True
            ),
            namespaces=process.history.namespaces,
        )  # fmt: skip
        self.ids: dict[str, str] = {}

    async def open(self) -> None:
        for name in NAMESPACES:
            await self.call("RegisterNamespace", name, workflow_execution_retention_period={"seconds": 86_400})
            described = await self.call("DescribeNamespace", name)
            self.ids[name] = described.namespace_info.id
        target = {"worker": {"namespace": "bank", "task_queue": "q"}}
        await self.call("CreateNexusEndpoint", spec={"name": ENDPOINT, "target": target})

    async def send(self, method: str, request: Message, caller: str = _OPERATOR) -> Any:
        """Call as the key of that name. Raises ServiceError."""
        spec = SPECS[method]
        headers = {"authorization": f"Bearer {_secret(caller)}"}
        deadline_ns = self.clock.steady_ns() + 30 * SECOND_NS
        reply = await self.frontend.call(spec.full_name, request, CallContext(deadline_ns=deadline_ns, headers=headers))
        await self.history.transfers.drain()
        return decoded(reply, spec.response_type)

    async def call(self, method: str, namespace: str = "", caller: str = _OPERATOR, **fields: Any) -> Any:
        """The same, with the request put together here."""
        spec = SPECS[method]
        if namespace and spec.namespaced:
            fields["namespace"] = namespace
        return await self.send(method, spec.request_type(**fields), caller)

    async def refusal(self, method: str, namespace: str = "", caller: str = _OPERATOR, **fields: Any) -> str:
        """The code of the refusal, and its text; empty when the call was served."""
        try:
            await self.call(method, namespace, caller, **fields)
        except ServiceError as error:
            return f"{error.code.name}: {error.message}"
        return ""

    async def stored(self) -> list[Any]:
        """All runs as they are stored: what was refused has changed none."""
        return await self.store.list_executions(None, 1000)

    async def later(self, seconds: int) -> None:
        """Time passes in small steps, so that what it wakes comes to its end in between."""
        for _ in range(seconds):
            await self.clock.advance(1)
            for _ in range(50):
                await asyncio.sleep(0)
            await self.history.transfers.drain()

    # ---- things that go on ---------------------------------------------------------------------------------------

    async def start(self, namespace: str = "victim", workflow_id: str = "w", **fields: Any) -> str:
        """A workflow; its run id."""
        wanted = {
            "workflow_id": workflow_id,
            "request_id": workflow_id,
            "workflow_type": WORKFLOW_TYPE,
            "task_queue": QUEUE,
        }
        reply = await self.call("StartWorkflowExecution", namespace, **(wanted | fields))
        return str(reply.run_id)

    async def poll(self, kind: str, namespace: str = "victim", queue: str = "q") -> Any:
        """A worker's poll; kind is Workflow, Activity or Nexus."""
        async with asyncio.timeout(PATIENCE_S):
            task = await self.call(f"Poll{kind}TaskQueue", namespace, task_queue={"name": queue}, identity="worker")
        assert task.task_token, "the poll got no task"
        return task

    async def turn(self, namespace: str = "victim", *commands: dict[str, Any], queue: str = "q") -> Any:
        """Poll a workflow task and answer it with those commands."""
        task = await self.poll("Workflow", namespace, queue)
        return await self.call(
            "RespondWorkflowTaskCompleted", namespace, task_token=task.task_token, commands=list(commands)
        )

    def dispatch(self, namespace: str) -> asyncio.Task[Any]:
        """A Nexus request of somebody outside for the workers of a namespace, which waits for their answer."""
        context = CallContext(
            deadline_ns=self.clock.steady_ns() + 30 * SECOND_NS, namespace_id=self.ids[namespace], namespace=namespace
        )
        request = DispatchNexusTaskRequest(task_queue="q")
        request.request.start_operation.service, request.request.start_operation.operation = "s", "o"
        return asyncio.ensure_future(self.history.call(HistoryService.DispatchNexusTask, request, context))


SCHEDULE_ACTIVITY: dict[str, Any] = {
    "command_type": "COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK",
    "schedule_activity_task_command_attributes": {
        "activity_id": "a", "activity_type": {"name": "A"}, "task_queue": QUEUE,
        "start_to_close_timeout": {"seconds": 60}, "heartbeat_timeout": {"seconds": 50},
        "retry_policy": {"initial_interval": {"seconds": 1}, "maximum_attempts": 5},
    },
}  # fmt: skip
CALL_OPERATION: dict[str, Any] = {
    "command_type": "COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION",
    "schedule_nexus_operation_command_attributes": {"endpoint": ENDPOINT, "service": "s", "operation": "o"},
}


@asynccontextmanager
async def town() -> AsyncIterator[Town]:
    """Open one, and close it."""
    weather = Weather()
    weather.clear()
    backend = Backend(random.Random(1), processes=1, weather=weather, note=lambda _: None)
    await backend.open()
    try:
        made = Town(backend)
        await made.open()
        yield made
        await made.frontend.close()
    finally:
        await backend.close()
