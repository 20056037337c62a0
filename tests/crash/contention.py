"""Clients that contend for a few workflow ids while servers are killed; their calls have to be linearizable.

No worker serves these workflows, so nothing happens to them but what the clients ask: the log of the calls is all that
the check needs. Each start carries its request id as its identity, which the first event of its run shows.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr
from temporalio.service import RPCError, RPCStatusCode

from tests.linearizability import checker, model
from tests.linearizability.checker import Call
from tests.simulation.calls import operations_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from temporalio.client import Client

CLIENTS = 3
"""For each id at a time."""
CALLS = 40
"""On one id; then comes the next one."""
MOST_UNKNOWN = 6
"""Calls of unknown outcome may take effect at any time: with many of them, the search is long and proves little."""
DEFINITE = (RPCStatusCode.NOT_FOUND, RPCStatusCode.ALREADY_EXISTS)
RPCS = {
    "StartWorkflowExecution": "start_workflow_execution",
    "SignalWithStartWorkflowExecution": "signal_with_start_workflow_execution",
    "SignalWorkflowExecution": "signal_workflow_execution",
    "TerminateWorkflowExecution": "terminate_workflow_execution",
    "DescribeWorkflowExecution": "describe_workflow_execution",
    "ListWorkflowExecutions": "list_workflow_executions",
}


class Contention:
    """Several clients on one workflow id after the other."""

    def __init__(self, clients: Sequence[Client], prefix: str, seed: int) -> None:
        self._clients = clients
        self._prefix = prefix
        self._chance = random.Random(seed)
        self._logs: dict[str, list[tuple[str, Any, float, float | None, Any]]] = defaultdict(list)
        """Method, request, called, returned (None: unknown), and the reply (None: refused)."""
        self.stopping = False
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Until told to stop."""
        number = 0
        while not self.stopping:
            number += 1
            await asyncio.gather(*(self._use(f"{self._prefix}{number}") for _ in range(CLIENTS)))

    async def _use(self, workflow_id: str) -> None:
        log = self._logs[workflow_id]
        while not self.stopping and len(log) < CALLS:
            if sum(returned is None for _, _, _, returned, _ in log) > MOST_UNKNOWN:
                return
            await self._one(workflow_id)
            await asyncio.sleep(self._chance.random() * 0.05)

    async def _one(self, workflow_id: str) -> None:
        method = self._chance.choice(sorted(RPCS))
        request = self._request(method, workflow_id)
        service = self._chance.choice(self._clients).workflow_service
        log = self._logs[workflow_id]
        place = len(log)
        called = time.monotonic()
        log.append((method, request, called, None, None))
        reply: Any = None
        try:
            reply = await getattr(service, RPCS[method])(request, retry=False)
        except RPCError as error:
            self.counts["refused" if error.status in DEFINITE else "unknown"] += 1
            if error.status not in DEFINITE:
                # The server is away: each further try would be one more that may have taken effect.
                await asyncio.sleep(1)
                return
        else:
            self.counts["answered"] += 1
        log[place] = (method, request, called, time.monotonic(), reply)

    def _request(self, method: str, workflow_id: str) -> Any:
        request = getattr(rr, f"{method}Request")(namespace="default")
        if method == "ListWorkflowExecutions":
            request.query = f'WorkflowId = "{workflow_id}"'
        elif method == "DescribeWorkflowExecution":
            request.execution.workflow_id = workflow_id
        elif "Start" not in method:
            request.workflow_execution.workflow_id = workflow_id
        else:
            request.workflow_id = workflow_id
            request.request_id = request.identity = str(uuid.UUID(int=self._chance.getrandbits(128), version=4))
            request.workflow_type.name, request.task_queue.name = "Contended", "nobody works here"
            if method == "StartWorkflowExecution" and self._chance.random() < 0.3:
                request.workflow_id_conflict_policy = wf_enums.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
        if hasattr(request, "signal_name"):
            request.signal_name = f"signal {self._chance.getrandbits(64):x}"
            request.request_id = request.request_id or str(uuid.UUID(int=self._chance.getrandbits(128), version=4))
        return request

    async def check(self, client: Client) -> list[str]:
        """The ids whose calls no order explains, in words."""
        wrong: list[str] = []
        for workflow_id, log in self._logs.items():
            run_ids = await self._run_ids(client, workflow_id)
            calls = [
                Call(operation, called, returned)
                for method, request, called, returned, reply in log
                for _, operation in operations_of(method, request, reply, returned is None, run_ids)
            ]
            verdict = checker.check(calls, model.NOTHING, model.step, model.is_read)
            if not verdict.good:
                lines = "\n  ".join(str(call) for call in calls)
                wrong.append(
                    f"the calls of {workflow_id} are not linearizable, stuck at {verdict.stuck_at}:\n  {lines}"
                )
        return wrong

    async def _run_ids(self, client: Client, workflow_id: str) -> dict[str, list[str]]:
        """The runs that each request made."""
        found: dict[str, list[str]] = defaultdict(list)
        async for execution in client.list_workflows(f'WorkflowId = "{workflow_id}"'):
            history = await client.get_workflow_handle(workflow_id, run_id=execution.run_id).fetch_history()
            started = history.events[0].workflow_execution_started_event_attributes
            found[started.identity].append(execution.run_id)
        return found

    def __str__(self) -> str:
        return f"{len(self._logs)} contended ids: " + ", ".join(f"{n} {what}" for what, n in self.counts.items())
