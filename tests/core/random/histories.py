"""Random histories of the pure core: small steps, each read from a list of small numbers, so that failures shrink well.

    actor = Actor(World())
    actor.step("signal", [1, 0, 2])

A step that a run refuses leaves everything as it was; any other step ends in commits, each of which is checked by
`CheckedWorld`. `finish` then lets every run come to its end, whatever state it was left in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.protocol.v1 import message_pb2 as protocol_pb
from temporalio.api.update.v1 import message_pb2 as update_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.core.checks import OPEN, CheckedWorld
from tests.core.command_builders import complete_workflow, payload, payloads
from tests.core.harness import HANDLERS_NAMESPACE_ID, NAMESPACE, NAMESPACE_ID
from tests.core.random import commands as random_commands
from whistlestop.common.errors import ServiceError, not_found
from whistlestop.common.proto.nexus_pb2 import NexusTaskData
from whistlestop.common.versioning.deployments import EMPTY
from whistlestop.history import tokens
from whistlestop.history.core import completion, deadlines
from whistlestop.history.core.activity import decide as core_activity
from whistlestop.history.core.activity import operations as activity_operations
from whistlestop.history.core.callback import decide as callbacks
from whistlestop.history.core.chain import start as core_start
from whistlestop.history.core.child import decide as children
from whistlestop.history.core.external import decide as external
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.nexus import failures as nexus_failures
from whistlestop.history.core.operations import options
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.core.state_pb2 import TransferData
from whistlestop.history.core.times import SECOND_NS, set_duration
from whistlestop.history.core.update import decide as update
from whistlestop.history.core.workflow import cancel, close
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.common.proto.internal_pb2 import TaskToken
    from whistlestop.history.core.state_pb2 import Activity, Update
    from whistlestop.history.core.transition.run import Run
    from whistlestop.storage.records import MatchingTask

T = TypeVar("T")
WORKFLOW_IDS = ("wf", "other", "third")
CALLBACK = common_pb.Callback(nexus=common_pb.Callback.Nexus(url="temporal://system"))
UPDATE_IDS = ("u0", "u1", "u2")


class Numbers:
    """Choices read from a list of small numbers; 0 once it is used up."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = iter(numbers)

    def below(self, limit: int) -> int:
        return next(self._numbers, 0) % limit

    def of(self, *choices: Any) -> Any:
        return choices[self.below(len(choices))]


class Actor:
    """Carries out steps on a world."""

    def __init__(self, world: CheckedWorld) -> None:
        self.world = world
        self.workflow_tokens: list[TaskToken] = []
        self.activity_tokens: list[TaskToken] = []
        self.trace: list[str] = []

    # ---- choosing -----------------------------------------------------------------------------------------------

    def a_run(self, numbers: Numbers) -> str:
        """Mostly an open run, sometimes any."""
        every = list(self.world.stored)
        still = [run_id for run_id in every if self.world.state(run_id).status in OPEN]
        known = every if numbers.below(8) == 7 or not still else still
        return known[numbers.below(len(known))]

    def step(self, name: str, numbers: list[int]) -> None:
        """Carry out one step. Refusals are fine."""
        try:
            getattr(self, f"do_{name}")(Numbers(numbers))
        except ServiceError as error:
            self.trace.append(f"{name}: {error.code.name} {error}")

    # ---- clients ------------------------------------------------------------------------------------------------

    def do_start(self, n: Numbers) -> None:
        workflow_id = n.of(*WORKFLOW_IDS)
        current = self.world.current.get(workflow_id)
        if current is not None and self.world.state(current.run_id).status in OPEN:
            return
        if len(self.world.stored) > 12:
            return
        fields: dict[str, Any] = {"workflow_id": workflow_id}
        if n.below(3) == 2:
            fields["run_timeout_s"] = n.of(5, 30, 1)
        if n.below(3) == 2:
            fields["execution_timeout_s"] = n.of(40, 8, 2)
        if n.below(4) == 3:
            fields["task_timeout_s"] = n.of(1, 10, 60)
        if n.below(4) == 3:
            fields["start_delay_s"] = n.of(1, 7)
        if n.below(3) == 2:
            fields["retry_policy"] = random_commands.retry_policy(n)
        if n.below(5) == 4:
            fields["cron_schedule"] = n.of("@every 3s", "* * * * *")
        if n.below(4) == 3:
            fields["memo"] = common_pb.Memo(fields={"m": payload("1")})
        if n.below(4) == 3:
            fields["priority"] = common_pb.Priority(priority_key=n.of(1, 3, 5))
        if n.below(4) == 3:
            fields["time_skipping_config"] = common_pb.TimeSkippingConfig(
                enabled=True, max_session_skip_count=n.of(1, 3, 50)
            )
        self.world.start(**fields)

    def do_signal(self, n: Numbers) -> None:
        run_id = self.a_run(n)
        request_id = n.of("", "r1", "r2", self.world.ids.uuid())
        with_start = n.below(5) == 4
        self.world.transact(
            lambda run: signal.receive(
                run,
                name="s",
                input=payloads("x") if n.below(2) else None,
                identity="c",
                request_id=request_id,
                with_start=with_start,
            ),
            run_id,
        )

    def do_cancel(self, n: Numbers) -> None:
        run_id = self.a_run(n)
        self.world.transact(lambda run: cancel.request(run, cause="c", identity="c", request_id="cancel"), run_id)

    def do_terminate(self, n: Numbers) -> None:
        def decide(run: Run) -> None:
            if run.is_open:
                close.terminate(run, reason="r", identity="c")

        run_id = self.a_run(n)
        if n.below(3) == 2:
            self.world.transact(decide, run_id)

    def do_options(self, n: Numbers) -> None:
        change = options.Change(
            priority=common_pb.Priority(priority_key=n.of(2, 4)) if n.below(2) else None,
            attached_request_id=n.of("", "attached", "r1"),
            unset_versioning_override=bool(n.below(2)),
            attached_callbacks=[CALLBACK] if n.below(3) == 2 else (),
        )
        self.world.transact(lambda run: options.update(run, change), self.a_run(n))

    def do_update(self, n: Numbers) -> None:
        request = update_pb.Request()
        request.meta.update_id = n.of(*UPDATE_IDS)
        request.input.name = "u"
        run_id = self.a_run(n)
        if n.below(4) == 3:
            request.request_id = n.of("q1", "q2")
            request.completion_callbacks.append(CALLBACK)
        ticket = self.world.transact(lambda run: update.admit(run, request), run_id)
        state = self.world.state(run_id)
        update.progress(state, ticket, is_open=state.status in OPEN)

    # ---- workflow tasks -----------------------------------------------------------------------------------------

    def do_poll(self, n: Numbers) -> None:
        offered = [task for task in self.world.tasks.values() if task.key.task_type == 1]
        if not offered:
            return
        task: MatchingTask = offered[n.below(len(offered))]

        def decide(run: Run) -> TaskToken:
            assert run.state.workflow_task.stamp == task.stamp
            if run.state.sticky_task_queue and run.state.sticky_task_queue != task.key.task_queue:
                run.state.sticky_task_queue = ""
            workflow_task.start(run, request_id=self.world.ids.uuid(), identity="worker")
            run.outgoing_messages = update.send(run, resend=True)
            check_suffix(run)
            return tokens.parse(tokens.of_workflow_task(run))

        self.workflow_tokens.append(self.world.transact(decide, task.run_id))

    def do_turn(self, n: Numbers) -> None:
        self.do_poll(n)
        self.do_complete(n)

    def a_token(self, n: Numbers) -> TaskToken | None:
        """Mostly one of a task that is started, sometimes any."""
        known = self.workflow_tokens
        if n.below(12) < 11:
            known = [token for token in known if self._is_started(token)]
        return known[-1 - n.below(len(known))] if known else None

    def _is_started(self, token: TaskToken) -> bool:
        state = self.world.state(token.run_id)
        task = state.workflow_task
        of_task = (token.scheduled_event_id, token.started_event_id, token.attempt)
        return state.status in OPEN and of_task == (task.scheduled_event_id, task.started_event_id, task.attempt)

    def do_complete(self, n: Numbers) -> None:
        token = self.a_token(n)
        if token is None:
            return
        state = self.world.state(token.run_id)
        made: list[command_pb.Command] = []
        messages: list[protocol_pb.Message] = []
        for item in list(state.updates.values()):
            self._answer_update(n, item, made, messages)
        made += [random_commands.command(n, state, WORKFLOW_IDS) for _ in range(n.below(6))]
        if n.below(7) == 6:
            made.append(random_commands.closing(n))
        request = service_pb.RespondWorkflowTaskCompletedRequest(identity="worker", commands=made, messages=messages)
        request.return_new_workflow_task = n.below(3) == 2
        request.force_create_new_workflow_task = n.below(6) == 5
        if n.below(3) == 2:
            request.sticky_attributes.worker_task_queue.name = "sticky"
            set_duration(request.sticky_attributes.schedule_to_start_timeout, n.of(5, 1) * SECOND_NS)
        request.capabilities.discard_speculative_workflow_task_with_events = bool(n.below(2))

        def decide(run: Run) -> completion.Outcome:
            outcome = completion.respond_completed(run, token, request)
            for scheduled_event_id in outcome.eager_activities:
                core_activity.start_eagerly(run, scheduled_event_id, self.world.ids.uuid(), "worker")
            return outcome

        outcome = self.world.transact(decide, token.run_id)
        run = self.world.load(token.run_id)
        if outcome.new_task_started:
            self.workflow_tokens.append(tokens.parse(tokens.of_workflow_task(run)))
        for scheduled_event_id in outcome.eager_activities:
            if scheduled_event_id in run.state.activities:
                self.activity_tokens.append(
                    tokens.parse(tokens.of_activity(run, run.state.activities[scheduled_event_id]))
                )

    def _answer_update(
        self, n: Numbers, item: Update, made: list[command_pb.Command], messages: list[protocol_pb.Message]
    ) -> None:
        if item.stage == item.COMPLETED or n.below(3) == 2:
            return
        bodies: list[Any] = []
        if item.stage != item.ACCEPTED:
            if n.below(3) == 2:
                bodies.append(update_pb.Rejection(rejected_request_message_id=f"{item.update_id}/request"))
                bodies[0].failure.message = "no"
            else:
                bodies.append(
                    update_pb.Acceptance(
                        accepted_request_message_id=f"{item.update_id}/request", accepted_request_sequencing_event_id=1
                    )
                )
        if (item.stage == item.ACCEPTED or isinstance(bodies[0], update_pb.Acceptance)) and n.below(2):
            response = update_pb.Response()
            response.meta.update_id = item.update_id
            response.outcome.success.CopyFrom(payloads("ok"))
            bodies.append(response)
        for index, body in enumerate(bodies):
            message = protocol_pb.Message(id=f"{item.update_id}/{index}", protocol_instance_id=item.update_id)
            message.body.Pack(body)
            messages.append(message)
            if n.below(3):
                made.append(random_commands.protocol_message(message.id))

    def do_fail_task(self, n: Numbers) -> None:
        token = self.a_token(n)
        if token is None:
            return

        def decide(run: Run) -> None:
            completion.check_token(run, token)
            workflow_task.fail(run, fc.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE, None, "worker")
            workflow_task.schedule(run)

        self.world.transact(decide, token.run_id)

    def do_reset_sticky(self, n: Numbers) -> None:
        def decide(run: Run) -> None:
            task = run.state.workflow_task
            if run.is_open and task.scheduled_event_id and not task.started_event_id and task.sticky:
                workflow_task.move_to_normal_queue(run)

        self.world.transact(decide, self.a_run(n))

    # ---- activities ---------------------------------------------------------------------------------------------

    def do_poll_activity(self, n: Numbers) -> None:
        offered = [task for task in self.world.tasks.values() if task.key.task_type == 2]
        if not offered:
            return
        task = offered[n.below(len(offered))]

        def decide(run: Run) -> TaskToken:
            activity: Activity = core_activity.start(
                run, task.scheduled_event_id, task.stamp, self.world.ids.uuid(), "activity-worker"
            )
            return tokens.parse(tokens.of_activity(run, activity))

        self.activity_tokens.append(self.world.transact(decide, task.run_id))

    def an_activity_token(self, n: Numbers) -> TaskToken | None:
        known = self.activity_tokens
        if n.below(8) < 7:
            known = [token for token in known if self._is_attempt(token)]
        if not known:
            return None
        token = known[-1 - n.below(len(known))]
        if n.below(6) == 5:
            by_id = type(token)()
            by_id.CopyFrom(token)
            by_id.scheduled_event_id = 0
            return by_id
        return token

    def _is_attempt(self, token: TaskToken) -> bool:
        activity = self.world.state(token.run_id).activities.get(token.scheduled_event_id)
        return activity is not None and bool(activity.started_ns) and activity.attempt == token.attempt

    def do_activity(self, n: Numbers) -> None:
        token = self.an_activity_token(n)
        if token is None:
            return
        kind = n.below(4)
        failure = failure_pb.Failure(message="f")
        failure.application_failure_info.type = n.of("Retryable", "Fatal")
        failure.application_failure_info.non_retryable = n.below(4) == 3
        heartbeat = payloads("h") if n.below(2) else None

        def decide(run: Run) -> None:
            if kind == 0:
                core_activity.complete(run, token, payloads("r"), "aw")
            elif kind == 1:
                core_activity.fail(run, token, failure, "aw", heartbeat)
            elif kind == 2:
                core_activity.cancel(run, token, None, "aw")
            else:
                core_activity.heartbeat(run, token, heartbeat, "aw")

        self.world.transact(decide, token.run_id)

    def do_operate_activity(self, n: Numbers) -> None:
        busy = [run_id for run_id in self.world.stored if self.world.state(run_id).activities]
        run_id = busy[n.below(len(busy))] if busy else self.a_run(n)
        kind, all_of_them, jitter_ns = n.below(3), bool(n.below(2)), n.below(3) * SECOND_NS

        def decide(run: Run) -> None:
            chosen = activity_operations.selected(run, activity_id=n.of("a0", "a1"), every=all_of_them)
            if kind == 0:
                activity_operations.pause(run, chosen, identity="i", reason="r", request_id=self.world.ids.uuid())
            elif kind == 1:
                activity_operations.unpause(
                    run, chosen, reset_attempts=bool(n.below(2)), reset_heartbeat=bool(n.below(2)), jitter_ns=jitter_ns
                )
            else:
                activity_operations.reset(
                    run, chosen, reset_heartbeat=bool(n.below(2)), keep_paused=bool(n.below(2)), jitter_ns=jitter_ns
                )

        self.world.transact(decide, run_id)

    # ---- Nexus operations ---------------------------------------------------------------------------------------

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

    def do_nexus(self, n: Numbers) -> None:
        """A worker takes a request and answers it, or does not."""
        offered = [task for task in self.world.tasks.values() if task.key.task_type == 3]
        if not offered:
            return
        task = offered[n.below(len(offered))]
        cancel = NexusTaskData.FromString(task.data).cancel

        def take(run: Run) -> TaskToken:
            operation = nexus_operations.take(run, task.scheduled_event_id, task.stamp, cancel=cancel)
            return tokens.parse(tokens.of_nexus_task(run, operation, cancel=cancel))

        token = self.world.transact(take, task.run_id)
        kind = n.below(5)

        def decide(run: Run) -> None:
            operation = nexus_operations.answered(run, token, "")
            assert operation is not None
            if kind == 1:
                failure = nexus_failures.handler_failure(n.of("INTERNAL", "BAD_REQUEST"), "no")
                nexus_operations.refused(run, operation, failure, cancel=cancel)
            elif cancel:
                nexus_operations.cancel_delivered(run, operation)
            elif kind == 2:
                nexus_operations.complete(run, operation, payload("r"))
            elif kind == 3:
                failure = failure_pb.Failure(message="f")
                failure.canceled_failure_info.SetInParent()
                nexus_operations.fail(run, operation, failure)
            else:
                nexus_operations.start(run, operation, "token")

        if kind < 4:
            self.world.transact(decide, task.run_id)

    def do_nexus_end(self, n: Numbers) -> None:
        """What went on elsewhere ends, perhaps before its start was answered."""
        busy = [run_id for run_id in self.world.stored if self.world.state(run_id).nexus_operations]
        if not busy:
            return
        run_id = busy[n.below(len(busy))]
        known = sorted(self.world.state(run_id).nexus_operations)
        event_id = known[n.below(len(known))]

        def decide(run: Run) -> None:
            operation = nexus_operations.of_callback(run, event_id, "")
            nexus_operations.note_started(run, operation, "token", run.now_ns, [])
            if n.below(2):
                nexus_operations.fail(run, operation, failure_pb.Failure(message="f"))
            else:
                nexus_operations.complete(run, operation, None)

        self.world.transact(decide, run_id)

    # ---- time and the outbox ------------------------------------------------------------------------------------

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

    # ---- the end ------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Whatever was left: each run can be brought to its end (and those of endless chains to the next run)."""
        rounds = 0
        while self.world.transfers:
            self.do_deliver(Numbers([]))
            rounds += 1
            assert rounds < 500
        for run_id in list(self.world.stored):
            self._bring_to_end(run_id)

    def _bring_to_end(self, run_id: str) -> None:
        for _ in range(60):
            state = self.world.state(run_id)
            if state.status not in OPEN:
                return
            task = state.workflow_task
            if task.scheduled_event_id and task.started_event_id:
                run = self.world.load(run_id)
                token = tokens.parse(tokens.of_workflow_task(run))
                self.world.complete(complete_workflow("end"), token=token)
            elif task.scheduled_event_id:
                self.world.poll(run_id)
            elif state.first_workflow_task_backoff_until_ns:
                self.world.advance(max(0, deadlines.timer_row_wall_ns(state) - self.world.now_ns) / SECOND_NS)
            else:
                self.world.transact(
                    lambda run: signal.receive(run, name="end", input=None, identity="c", request_id=""), run_id
                )
                assert self.world.state(run_id).workflow_task.scheduled_event_id, "a signal makes no workflow task"
        raise AssertionError(f"the run can't be brought to its end: {self.world.names(run_id)}")


def check_suffix(run: Run) -> None:
    """What a worker gets as history ends with the started event, without a gap."""
    state = run.state
    unwritten = workflow_task.unwritten_events(run)
    last = unwritten[-1].event_id if unwritten else state.next_event_id - 1
    assert last == state.workflow_task.started_event_id
    if unwritten:
        assert [event.event_id for event in unwritten] == [state.next_event_id, state.next_event_id + 1]
        assert unwritten[0].event_type == et.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED


def _found(target: Run | None) -> Run:
    if target is None:
        raise not_found("no such target")
    return target


STEPS = tuple(name.removeprefix("do_") for name in vars(Actor) if name.startswith("do_"))
