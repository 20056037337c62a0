"""Wake-ups on AWS, against moto: when one is set, when it is set once only, and what happens when one is lost."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3  # type: ignore[import-untyped]  # carries no types
import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]  # carries no types
from moto import mock_aws
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clock import SECOND_NS, FakeClock, FunctionClock, SystemClock
from whistlestop.common.context import CallContext
from whistlestop.functions import bootstrap
from whistlestop.history import lambda_function
from whistlestop.history.timers import aws_wake_ups as aws_alarm
from whistlestop.history.timers.aws_wake_ups import MINUTE_NS, AwsWakeUps, WakeUpTarget, scheduled_ns
from whistlestop.net.aws import AwsError
from whistlestop.net.internal.transports import wrap
from whistlestop.storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GROUP = "whistlestop-wakes"
ROLE = "arn:aws:iam::123456789012:role/scheduler"
SWEEP = {"source": "whistlestop.sweep"}


class Calls:
    """A client of boto3, which moto answers, whose errors are as our own calls raise them."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(**fields: Any) -> Any:
            try:
                return method(**fields)
            except ClientError as error:
                raise AwsError(error.response["Error"]["Code"], str(error)) from error

        return call


@dataclass(slots=True)
class Aws:
    """Moto's SQS and Scheduler, and what the alarm sent to them."""

    target: WakeUpTarget
    sqs: Any
    scheduler: Any
    sent: list[int]

    def schedules(self) -> list[dict[str, Any]]:
        names = [each["Name"] for each in self.scheduler.list_schedules(GroupName=GROUP)["Schedules"]]
        return [self.scheduler.get_schedule(Name=name, GroupName=GROUP) for name in names]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        sqs, scheduler = boto3.client("sqs"), boto3.client("scheduler")
        url = sqs.create_queue(QueueName="wakes")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        scheduler.create_schedule_group(Name=GROUP)
        sent: list[int] = []
        sqs.meta.events.register(
            "provide-client-params.sqs.SendMessage", lambda params, **_: sent.append(params["DelaySeconds"])
        )
        yield Aws(WakeUpTarget(url, arn, GROUP, ROLE), Calls(sqs), Calls(scheduler), sent)


def arm(alarm: AwsWakeUps, *instants_ns: int) -> None:
    async def all_of_them() -> None:
        for at_ns in instants_ns:
            await alarm.arm(at_ns)

    asyncio.run(all_of_them())


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(SystemClock().now_ns() // MINUTE_NS * MINUTE_NS)


@pytest.mark.parametrize(("after_s", "delay_s"), [(-5, 0), (0, 0), (0.2, 1), (40, 40), (899.5, 900), (900, 900)])
def test_within_fifteen_minutes_a_message_is_delayed(aws: Aws, clock: FakeClock, after_s: float, delay_s: int) -> None:
    """By whole seconds, never to be early."""
    arm(AwsWakeUps(aws.target, clock, aws.sqs, aws.scheduler), clock.now_ns() + int(after_s * SECOND_NS))
    assert (aws.sent, aws.schedules()) == ([delay_s], [])


def test_beyond_a_schedule_comes_before_its_instant(aws: Aws, clock: FakeClock) -> None:
    """Once, to the queue, and it is gone when it has come."""
    at_ns = clock.now_ns() + 3600 * SECOND_NS + 30 * SECOND_NS
    arm(AwsWakeUps(aws.target, clock, aws.sqs, aws.scheduler), at_ns)
    (schedule,) = aws.schedules()
    minute = datetime.fromtimestamp(scheduled_ns(at_ns) // SECOND_NS, UTC)
    assert schedule["Name"] == f"wake-{minute:%Y%m%dT%H%M}"
    assert schedule["ScheduleExpression"] == f"at({minute:%Y-%m-%dT%H:%M}:00)"
    assert schedule["ActionAfterCompletion"] == "DELETE"
    assert (schedule["Target"]["Arn"], schedule["Target"]["RoleArn"]) == (aws.target.queue_arn, ROLE)
    assert json.loads(schedule["Target"]["Input"])["wake"] == "timers"
    assert aws.sent == []


@pytest.mark.parametrize("second", [0, 1, 30, 59])
def test_a_schedule_has_fired_by_the_instant_even_at_the_end_of_its_minute(second: int) -> None:
    at_ns = 1_700_000_040 * SECOND_NS + second * SECOND_NS
    assert 0 <= at_ns - (scheduled_ns(at_ns) + MINUTE_NS) < MINUTE_NS
    assert scheduled_ns(at_ns) % MINUTE_NS == 0


def test_schedules_of_a_minute_coalesce_over_instances(aws: Aws, clock: FakeClock) -> None:
    """Each instance arms, and there is one schedule."""
    at_ns = clock.now_ns() + 7200 * SECOND_NS
    for second in range(3):
        arm(AwsWakeUps(aws.target, clock, aws.sqs, aws.scheduler), at_ns + second * SECOND_NS)
    assert len(aws.schedules()) == 1


def test_an_instance_arms_only_for_what_comes_before_what_it_armed(aws: Aws, clock: FakeClock) -> None:
    now_ns = clock.now_ns()
    alarm = AwsWakeUps(aws.target, clock, aws.sqs, aws.scheduler)
    arm(alarm, *(now_ns + seconds * SECOND_NS for seconds in (300, 400, 300, 100, 200, 7200)))
    assert aws.sent == [300, 100]
    assert aws.schedules() == []


def test_a_wake_up_that_may_have_started_does_not_cover_later_commits(aws: Aws, clock: FakeClock) -> None:
    """It may have looked before this commit."""
    alarm = AwsWakeUps(aws.target, clock, aws.sqs, aws.scheduler)
    arm(alarm, clock.now_ns() + 20 * SECOND_NS)
    asyncio.run(clock.advance(16))
    arm(alarm, clock.now_ns() + 100 * SECOND_NS)
    assert aws.sent == [20, 100]


def test_timers_without_a_wake_up_are_found_by_the_sweep(aws: Aws, clock: FakeClock) -> None:
    """The commit stands, so the call answers; nothing is remembered that does not exist."""
    gone = WakeUpTarget(aws.target.queue_url + "-gone", aws.target.queue_arn, GROUP, ROLE)
    alarm = AwsWakeUps(gone, clock, aws.sqs, aws.scheduler)
    arm(alarm, clock.now_ns() + 30 * SECOND_NS)
    assert alarm._armed == []


# ---- the history function with it --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Function:
    """A history instance on a SQLite file, whose clock moves as a test says."""

    aws: Aws
    ahead_ns: int = 0

    def now_ns(self) -> int:
        return SystemClock().now_ns() + self.ahead_ns

    def start(self, workflow_id: str, **fields: Any) -> None:
        request = rr.StartWorkflowExecutionRequest(workflow_id=workflow_id, request_id=workflow_id, **fields)
        request.workflow_type.name, request.task_queue.name = "Journey", "line"
        context = CallContext(namespace_id="ns", namespace="default")
        envelope = wrap("StartWorkflowExecution", request, context, SystemClock())
        assert "response" in lambda_function.handler(envelope, None)

    def wake(self) -> int:
        """As a message or a schedule does; how many timers it fired."""
        return int(lambda_function.handler(SWEEP, None)["timers"])

    def later(self, seconds: float) -> None:
        self.ahead_ns += int(seconds * SECOND_NS)


@pytest.fixture
def function(aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Function]:
    made = Function(aws)

    class Clock(FunctionClock):
        def now_ns(self) -> int:
            return made.now_ns()

    async def migrate() -> None:
        store = SqliteStore(str(tmp_path / "store.db"))
        await store.open()
        await store.migrate()
        await store.close()

    bootstrap.run(migrate())
    for name, value in {
        "SQLITE_PATH": str(tmp_path / "store.db"), "MATCHING_FUNCTION": "matching",
        "WAKE_UP_QUEUE_URL": aws.target.queue_url, "WAKE_UP_QUEUE_ARN": aws.target.queue_arn,
        "WAKE_UP_SCHEDULE_GROUP": GROUP, "WAKE_UP_ROLE_ARN": ROLE,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"WHISTLESTOP_{name}", value)
    monkeypatch.delenv("WHISTLESTOP_DATABASE_URL", raising=False)
    monkeypatch.setattr(lambda_function.function, "instance", None)
    monkeypatch.setattr(lambda_function.function, "clock", Clock())
    monkeypatch.setattr(bootstrap, "log_through_powertools", lambda *_: None)

    def client(name: str) -> Any:
        return {"sqs": aws.sqs, "scheduler": aws.scheduler}[name]

    monkeypatch.setattr("whistlestop.net.aws.client", client)
    yield made
    if (instance := lambda_function.function.instance) is not None:
        bootstrap.run(instance.history.store.close())


def test_a_wake_up_schedules_the_next_one(function: Function) -> None:
    """The first wake stood for both; when it has come, the second is armed."""
    function.start("soon", workflow_start_delay={"seconds": 40})
    function.start("later", workflow_start_delay={"seconds": 90})
    assert function.aws.sent == [40]
    function.later(41)
    assert function.wake() == 1
    assert len(function.aws.sent) == 2
    assert 47 <= function.aws.sent[1] <= 50


def test_a_schedule_that_comes_early_arms_a_message(function: Function) -> None:
    """By schedule to the minute, by message to the second."""
    function.start("tomorrow", workflow_start_delay={"seconds": 86_400})
    (schedule,) = function.aws.schedules()
    # It is 60 to 120 s early, by the second of the minute: only within the last minute has it certainly come.
    function.later(86_400 - 55)
    assert (schedule["State"], function.wake(), function.aws.sent) == ("ENABLED", 0, [55])


def test_duplicate_and_lost_wake_ups(function: Function) -> None:
    """The message is lost: the sweep finds the timer. A second wake finds nothing, and arms nothing."""
    function.start("only", workflow_start_delay={"seconds": 40})
    function.later(400)
    assert [function.wake(), function.wake()] == [1, 0]
    assert function.aws.sent == [40]


def test_limits_are_those_of_aws() -> None:
    assert aws_alarm.MOST_DELAY_S == 15 * 60
