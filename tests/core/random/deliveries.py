"""Steps of the server itself: time passes, and transfer tasks are delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from tests.core.checks import OPEN
from tests.core.harness import HANDLERS_NAMESPACE_ID, NAMESPACE, NAMESPACE_ID
from tests.core.random.steps import Steps
from whistlestop.common.errors import ServiceError, not_found
from whistlestop.common.versioning.deployments import EMPTY
from whistlestop.history.core.callback import decide as callbacks
from whistlestop.history.core.chain import start as core_start
from whistlestop.history.core.child import decide as children
from whistlestop.history.core.external import decide as external
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.nexus import failures as nexus_failures
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.core.state_pb2 import TransferData
from whistlestop.history.core.workflow import cancel, close

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from tests.core.random.numbers import Numbers
    from whistlestop.history.core.transition.run import Run


class DeliverySteps(Steps):
    """Time, and the effects of a transition on other runs."""

    def do_advance(self, n: Numbers) -> None:
        self.world.advance(n.of(1, 0.001, 0.5, 3, 10, 61))

    def do_deliver(self, n: Numbers) -> None:
        if not self.world.transfers:
            return
        task = self.world.transfers.pop(n.below(min(2, len(self.world.transfers))))
        data = TransferData.FromString(task.data)
        again = n.below(5) == 4
        for _ in range(2 if again else 1):
            getattr(self, f"_{task.kind}")(n, task.key.run_id, data)

    def _initiated(self, run_id: str, data: TransferData) -> history_pb.HistoryEvent:
        return self.world.events(run_id)[data.initiated_event_id - 1]

    def _start_child(self, n: Numbers, parent_id: str, data: TransferData) -> None:
        parent = self.world.load(parent_id)
        child = parent.state.children.get(data.initiated_event_id)
        if not parent.is_open or child is None or child.started_event_id:
            return
        initiated = self._initiated(parent_id, data)
        current = self.world.current.get(data.target_workflow_id)
        if (current is not None and self.world.state(current.run_id).status in OPEN) or len(self.world.stored) > 12:
            children.record_start_failed(
                parent, initiated, fc.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
            )
            self.world.commit(parent)
            return
        run = core_start.new_run(
            children.started_attributes(
                parent.state, initiated, now_ns=self.world.now_ns, limits=self.world.limits, deployments=EMPTY
            ),
            namespace_id=NAMESPACE_ID,
            namespace=NAMESPACE,
            workflow_id=data.target_workflow_id,
            run_id=self.world.ids.uuid(),
            request_id=child.request_id,
            now_ns=self.world.now_ns,
            ids=self.world.ids,
            limits=self.world.limits,
            expected_current_run_id=current.run_id if current else None,
        )
        core_start.first_workflow_task(run)
        children.record_started(parent, initiated, run.key.run_id)
        self.world.commit(parent, also=run)

    def _child_closed(self, n: Numbers, child_id: str, data: TransferData) -> None:
        if data.target_run_id not in self.world.stored:
            return
        parent = self.world.load(data.target_run_id)
        child = parent.state.children.get(data.initiated_event_id)
        if not parent.is_open or child is None:
            return
        children.record_closed(parent, child, child_id, data.close_event)
        self.world.commit(parent)

    def _parent_closed(self, n: Numbers, parent_id: str, data: TransferData) -> None:
        current = self.world.current[data.target_workflow_id]
        run = self.world.load(current.run_id)
        if not run.is_open or run.state.first_run_id != data.target_run_id:
            return
        if data.parent_close_policy == wf_enums.PARENT_CLOSE_POLICY_TERMINATE:
            close.terminate(run, reason="parent", identity="history-service")
        else:
            external_id = (data.initiated_event_id, "parent", parent_id)
            cancel.request(run, cause="parent", identity="history-service", request_id="", external=external_id)
        if run.is_dirty:
            self.world.commit(run)

    def _signal_external(self, n: Numbers, sender_id: str, data: TransferData) -> None:
        sender = self.world.load(sender_id)
        if not sender.is_open or data.initiated_event_id not in sender.state.external_signals:
            return
        initiated = self._initiated(sender_id, data)
        attributes = initiated.signal_external_workflow_execution_initiated_event_attributes
        target = self._target(sender, data)
        try:
            target = _found(target)
            signal.from_workflow(target, attributes, initiated.event_id, sender)
            external.record_signaled(sender, initiated)
        except ServiceError:
            target = None
            external.record_signal_failed(
                sender,
                initiated,
                fc.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND,
            )
        self.world.commit(sender, also=target if target is not None and target.is_dirty else None)

    def _cancel_external(self, n: Numbers, sender_id: str, data: TransferData) -> None:
        sender = self.world.load(sender_id)
        if not sender.is_open or data.initiated_event_id not in sender.state.external_cancels:
            return
        initiated = self._initiated(sender_id, data)
        attributes = initiated.request_cancel_external_workflow_execution_initiated_event_attributes
        target = self._target(sender, data)
        try:
            target = _found(target)
            cancel.from_workflow(target, attributes, initiated.event_id, sender)
            external.record_cancel_requested(sender, initiated)
        except ServiceError:
            target = None
            external.record_cancel_failed(
                sender,
                initiated,
                fc.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND,
            )
        self.world.commit(sender, also=target if target is not None and target.is_dirty else None)

    def _target(self, sender: Run, data: TransferData) -> Run | None:
        current = self.world.current.get(data.target_workflow_id)
        if current is None or data.target_workflow_id == sender.key.workflow_id:
            return None
        return self.world.load(current.run_id)

    # ---- Nexus operations and callbacks

    def _nexus_callback(self, n: Numbers, run_id: str, data: TransferData) -> None:
        run = self.world.load(run_id)
        if not callbacks.is_owed(run.state, data.callback_index):
            return
        assert callbacks.failure_of(data) is not None or data.HasField("outcome") or not run.is_open
        kind = n.below(4)
        if kind == 0:
            callbacks.succeeded(run, data.callback_index)
        elif kind == 1:
            callbacks.failed(run, data.callback_index, "no")
        else:
            assert callbacks.put_off(run, data.callback_index, "later") > run.now_ns
        self.world.commit(run)

    def _nexus_start(self, n: Numbers, run_id: str, data: TransferData) -> None:
        self._offer_nexus(n, run_id, data, cancel=False)

    def _nexus_cancel(self, n: Numbers, run_id: str, data: TransferData) -> None:
        self._offer_nexus(n, run_id, data, cancel=True)

    def _offer_nexus(self, n: Numbers, run_id: str, data: TransferData, *, cancel: bool) -> None:
        run = self.world.load(run_id)
        operation = run.state.nexus_operations.get(data.initiated_event_id) if run.is_open else None
        if operation is None or not nexus_operations.is_wanted(operation, cancel=cancel):
            return
        if n.below(9) == 8:
            gone = nexus_failures.handler_failure("NOT_FOUND", "endpoint not registered")
            nexus_operations.refused(run, operation, gone, cancel=cancel)
        else:
            target = nexus_operations.Target(HANDLERS_NAMESPACE_ID, "payments")
            nexus_operations.dispatch(run, operation, target, cancel=cancel)
        self.world.commit(run)


def _found(target: Run | None) -> Run:
    if target is None:
        raise not_found("no such target")
    return target
