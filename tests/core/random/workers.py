"""Steps of workers: poll, complete or fail workflow tasks, and carry out activities and Nexus requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.protocol.v1 import message_pb2 as protocol_pb
from temporalio.api.update.v1 import message_pb2 as update_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.core.checks import OPEN
from tests.core.command_builders import payload, payloads
from tests.core.random import commands as random_commands
from tests.core.random.steps import WORKFLOW_IDS, Steps
from whistlestop.common.proto.nexus_pb2 import NexusTaskData
from whistlestop.history import tokens
from whistlestop.history.core import completion
from whistlestop.history.core.activity import decide as core_activity
from whistlestop.history.core.activity import operations as activity_operations
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.nexus import failures as nexus_failures
from whistlestop.history.core.times import SECOND_NS, set_duration
from whistlestop.history.core.update import decide as update
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from temporalio.api.command.v1 import message_pb2 as command_pb

    from tests.core.random.numbers import Numbers
    from whistlestop.common.proto.internal_pb2 import TaskToken
    from whistlestop.history.core.state_pb2 import Activity, Update
    from whistlestop.history.core.transition.run import Run
    from whistlestop.storage.records import MatchingTask


class WorkerSteps(Steps):
    """What workers do."""

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

    # ---- activities

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

    # ---- Nexus requests

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


def check_suffix(run: Run) -> None:
    """What a worker gets as history ends with the started event, without a gap."""
    state = run.state
    unwritten = workflow_task.unwritten_events(run)
    last = unwritten[-1].event_id if unwritten else state.next_event_id - 1
    assert last == state.workflow_task.started_event_id
    if unwritten:
        assert [event.event_id for event in unwritten] == [state.next_event_id, state.next_event_id + 1]
        assert unwritten[0].event_type == et.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED
