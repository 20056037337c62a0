"""Simulated clients: each operation is tried until its fate is known, and what was acknowledged is remembered."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import update_pb2 as update_enums
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.simulation.backend import NAMESPACE
from tests.simulation.calls import CLIENT
from tests.simulation.programs import PROGRAMS, encode
from tests.simulation.workers import TRY_AGAIN
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.times import set_duration

if TYPE_CHECKING:
    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.update.v1 import message_pb2 as update_pb

    from tests.simulation.world import Simulation

UNKNOWN_OUTCOME = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED})
COMPLETED = update_enums.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
ACCEPTED = update_enums.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED


@dataclass(slots=True)
class Seen:
    """What somebody outside was told."""

    started: list[tuple[str, str]] = field(default_factory=list)
    """(workflow id, run id)."""
    signals: list[tuple[str, str]] = field(default_factory=list)
    """(workflow id, signal name)."""
    updates: list[tuple[str, str, str, update_pb.Outcome | None]] = field(default_factory=list)
    """(workflow id, run id, update id, outcome or None for accepted)."""
    activities: list[tuple[str, str, str, common_pb.Payloads]] = field(default_factory=list)
    """(workflow id, run id, activity id, result)."""
    tries: Counter[str] = field(default_factory=Counter)
    """By a signal's name, how many calls may have sent it: acknowledged, or of unknown outcome."""
    tokens: set[bytes] = field(default_factory=set)
    """Of tasks that workers were given."""
    queries: int = 0


class Client:
    """One client, who does one thing."""

    def __init__(self, world: Simulation, number: int) -> None:
        self.world = world
        self.chance = random.Random(f"{world.seed} client {number}")
        self._number = number

    def name(self, prefix: str) -> str:
        return f"{prefix}{self._number}"

    def a_workflow(self) -> str:
        known = self.world.seen.started
        return self.chance.choice(known)[0] if known else "nobody"

    async def _insist(self, method: str, request: Any, kind: Any, timeout_s: float = 10, signal: str = "") -> Any:
        """The answer, once there is one. Raises ServiceError for a refusal. Counts the tries of a signal."""
        while True:
            if signal:
                self.world.seen.tries[signal] += 1
            try:
                return await self.world.backend.call(method, request, kind, timeout_s=timeout_s)
            except ServiceError as error:
                self.world.allow(error, method)
                if signal and error.code not in UNKNOWN_OUTCOME:
                    self.world.seen.tries[signal] -= 1
                if error.code not in TRY_AGAIN:
                    raise
                await self.world.backend.clock.sleep(self.chance.choice([0.05, 0.3, 2]))

    # ---- operations ---------------------------------------------------------------------------------------------

    def _start_request(self) -> rr.StartWorkflowExecutionRequest:
        chance = self.chance
        program = chance.choice(sorted(PROGRAMS))
        request = rr.StartWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_id=self.name(f"{program}-"),
            request_id=self.world.backend.ids.uuid(),
            identity="client",
        )
        request.workflow_type.name = program
        request.task_queue.name = "q"
        request.input.CopyFrom(encode({"target": self.a_workflow()}))
        if program == "failing":
            request.retry_policy.maximum_attempts = 3
            set_duration(request.retry_policy.initial_interval, SECOND_NS)
        if chance.random() < 0.1:
            set_duration(request.workflow_start_delay, 2 * SECOND_NS)
        if chance.random() < 0.1:
            set_duration(request.workflow_task_timeout, 2 * SECOND_NS)
        return request

    async def start(self) -> None:
        request = self._start_request()
        reply = await self._insist("StartWorkflowExecution", request, rr.StartWorkflowExecutionResponse)
        self.world.seen.started.append((request.workflow_id, reply.run_id))

    async def signal(self) -> None:
        request = rr.SignalWorkflowExecutionRequest(
            namespace=NAMESPACE, signal_name=self.name("signal "), request_id=self.world.backend.ids.uuid()
        )
        request.workflow_execution.workflow_id = self.a_workflow()
        await self._insist(
            "SignalWorkflowExecution", request, rr.SignalWorkflowExecutionResponse, signal=request.signal_name
        )
        self.world.seen.signals.append((request.workflow_execution.workflow_id, request.signal_name))

    async def signal_with_start(self) -> None:
        started = self._start_request()
        request = rr.SignalWithStartWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_id=started.workflow_id,
            request_id=started.request_id,
            signal_name=self.name("signal "),
            input=started.input,
        )
        if self.chance.random() < 0.5 and self.world.seen.started:
            request.workflow_id = self.a_workflow()
            request.workflow_id_reuse_policy = wf_enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
        request.workflow_type.CopyFrom(started.workflow_type)
        request.task_queue.CopyFrom(started.task_queue)
        reply = await self._insist(
            "SignalWithStartWorkflowExecution", request, rr.SignalWithStartWorkflowExecutionResponse,
            signal=request.signal_name,
        )  # fmt: skip
        self.world.seen.signals.append((request.workflow_id, request.signal_name))
        if reply.started:
            self.world.seen.started.append((request.workflow_id, reply.run_id))

    async def update(self) -> None:
        chance = self.chance
        names = [workflow_id for workflow_id, _ in self.world.seen.started if workflow_id.startswith("updated")]
        workflow_id = chance.choice(names) if names and chance.random() < 0.7 else self.a_workflow()
        request = rr.UpdateWorkflowExecutionRequest(namespace=NAMESPACE)
        request.workflow_execution.workflow_id = workflow_id
        request.request.meta.update_id = self.name("update ")
        request.request.input.name = chance.choice(["now", "now", "late", "no"])
        request.wait_policy.lifecycle_stage = chance.choice([ACCEPTED, COMPLETED])
        while True:
            reply = await self._insist("UpdateWorkflowExecution", request, rr.UpdateWorkflowExecutionResponse, 20)
            outcome = reply.outcome if reply.HasField("outcome") else None
            if outcome is not None or reply.stage >= request.wait_policy.lifecycle_stage:
                update_id = request.request.meta.update_id
                self.world.seen.updates.append(
                    (workflow_id, reply.update_ref.workflow_execution.run_id, update_id, outcome)
                )
                return

    async def update_with_start(self) -> None:
        """Of a new workflow, or one that may run already."""
        started = self._start_request()
        if self.world.seen.started and self.chance.random() < 0.5:
            started.workflow_id = self.a_workflow()
        started.workflow_type.name = started.workflow_id.partition("-")[0].partition("/")[0]
        started.ClearField("workflow_start_delay")
        started.workflow_id_conflict_policy = wf_enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
        started.workflow_id_reuse_policy = wf_enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
        request = rr.ExecuteMultiOperationRequest(namespace=NAMESPACE)
        request.operations.add().start_workflow.CopyFrom(started)
        update = request.operations.add().update_workflow
        update.namespace = NAMESPACE
        update.workflow_execution.workflow_id = started.workflow_id
        update.request.meta.update_id = self.name("update ")
        update.request.input.name = self.chance.choice(["now", "late"])
        update.wait_policy.lifecycle_stage = ACCEPTED
        reply = await self._insist("ExecuteMultiOperation", request, rr.ExecuteMultiOperationResponse, 20)
        start, updated = reply.responses[0].start_workflow, reply.responses[1].update_workflow
        self.world.seen.started.append((started.workflow_id, start.run_id))
        if updated.stage >= ACCEPTED:
            outcome = updated.outcome if updated.HasField("outcome") else None
            run_id = updated.update_ref.workflow_execution.run_id
            self.world.seen.updates.append((started.workflow_id, run_id, update.request.meta.update_id, outcome))

    async def replace(self) -> None:
        """Start in place of whatever runs."""
        if self.chance.random() < 0.6:
            return
        request = self._start_request()
        request.workflow_id = self.a_workflow()
        request.workflow_type.name = request.workflow_id.partition("-")[0].partition("/")[0]
        if request.workflow_type.name not in PROGRAMS:
            return
        request.workflow_id_conflict_policy = wf_enums.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
        reply = await self._insist("StartWorkflowExecution", request, rr.StartWorkflowExecutionResponse)
        self.world.seen.started.append((request.workflow_id, reply.run_id))

    async def query(self) -> None:
        request = rr.QueryWorkflowRequest(namespace=NAMESPACE)
        request.execution.workflow_id = self.a_workflow()
        request.query.query_type = "signals"
        reply = await self._insist("QueryWorkflow", request, rr.QueryWorkflowResponse)
        assert reply.HasField("query_result"), reply
        self.world.seen.queries += 1

    async def cancel(self) -> None:
        if self.chance.random() < 0.7:
            return
        request = rr.RequestCancelWorkflowExecutionRequest(
            namespace=NAMESPACE, request_id=self.world.backend.ids.uuid()
        )
        request.workflow_execution.workflow_id = self.a_workflow()
        await self._insist("RequestCancelWorkflowExecution", request, rr.RequestCancelWorkflowExecutionResponse)

    async def terminate(self) -> None:
        if self.chance.random() < 0.8:
            return
        request = rr.TerminateWorkflowExecutionRequest(namespace=NAMESPACE, identity=CLIENT)
        request.workflow_execution.workflow_id = self.a_workflow()
        await self._insist("TerminateWorkflowExecution", request, rr.TerminateWorkflowExecutionResponse)

    async def terminate_run(self, workflow_id: str, run_id: str) -> None:
        request = rr.TerminateWorkflowExecutionRequest(namespace=NAMESPACE, identity=CLIENT)
        request.workflow_execution.workflow_id, request.workflow_execution.run_id = workflow_id, run_id
        await self._insist("TerminateWorkflowExecution", request, rr.TerminateWorkflowExecutionResponse)

    async def reset(self) -> None:
        """Back to where some workflow task was completed."""
        asked = rr.GetWorkflowExecutionHistoryRequest(namespace=NAMESPACE)
        asked.execution.workflow_id, asked.execution.run_id = self.a_run()
        history = await self._insist("GetWorkflowExecutionHistory", asked, rr.GetWorkflowExecutionHistoryResponse)
        points = [
            event.event_id
            for event in history.history.events
            if event.HasField("workflow_task_completed_event_attributes")
        ]
        if not points:
            return
        request = rr.ResetWorkflowExecutionRequest(
            namespace=NAMESPACE,
            reason="try again",
            request_id=self.world.backend.ids.uuid(),
            workflow_task_finish_event_id=self.chance.choice(points),
        )
        request.workflow_execution.CopyFrom(asked.execution)
        reply = await self._insist("ResetWorkflowExecution", request, rr.ResetWorkflowExecutionResponse)
        self.world.seen.started.append((asked.execution.workflow_id, reply.run_id))

    def a_run(self) -> tuple[str, str]:
        known = self.world.seen.started
        return self.chance.choice(known) if known else ("nobody", "")

    async def describe(self) -> None:
        request = rr.DescribeWorkflowExecutionRequest(namespace=NAMESPACE)
        request.execution.workflow_id = self.a_workflow()
        await self._insist("DescribeWorkflowExecution", request, rr.DescribeWorkflowExecutionResponse)

    async def list(self) -> None:
        """All runs of one workflow id."""
        query = f'WorkflowId = "{self.a_workflow()}"'
        request = rr.ListWorkflowExecutionsRequest(namespace=NAMESPACE, query=query, page_size=100)
        await self._insist("ListWorkflowExecutions", request, rr.ListWorkflowExecutionsResponse)

    async def wait_for_end(self) -> None:
        request = rr.GetWorkflowExecutionHistoryRequest(namespace=NAMESPACE, wait_new_event=True)
        request.history_event_filter_type = wf_enums.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
        request.execution.workflow_id = self.a_workflow()
        while True:
            reply = await self._insist(
                "GetWorkflowExecutionHistory", request, rr.GetWorkflowExecutionHistoryResponse, 20
            )
            if reply.history.events:
                assert len(reply.history.events) == 1
                return
            request.next_page_token = reply.next_page_token
