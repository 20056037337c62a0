"""Steps of clients: start, signal, cancel, terminate, update, and change options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.update.v1 import message_pb2 as update_pb

from tests.core.checks import OPEN
from tests.core.command_builders import payload, payloads
from tests.core.random import commands as random_commands
from tests.core.random.steps import CALLBACK, UPDATE_IDS, WORKFLOW_IDS, Steps
from whistlestop.history.core.operations import options
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.core.update import decide as update
from whistlestop.history.core.workflow import cancel, close

if TYPE_CHECKING:
    from tests.core.random.numbers import Numbers
    from whistlestop.history.core.transition.run import Run


class ClientSteps(Steps):
    """What clients do to runs."""

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
