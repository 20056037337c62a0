"""Validations of schedules, which an operator may disable."""

from __future__ import annotations

import logging

import pytest
from temporalio.api.schedule.v1 import message_pb2 as schedule_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clock import FakeClock
from whistlestop.common.errors import ServiceError
from whistlestop.common.ids import CountedIds
from whistlestop.common.timing.throttle import ThrottledWarnings
from whistlestop.frontend.api import Rules
from whistlestop.frontend.api.schedules import check_create, check_update
from whistlestop.frontend.config import FrontendConfig
from whistlestop.storage.namespaces import parse
from whistlestop.storage.records import NamespaceRecord

DURATION = "Invalid schedule spec: interval is not a valid duration: proto: duration (seconds:2 nanos:-1) has "
OVERRIDE = "must provide version if override is pinned."


def schedule(fault: str) -> schedule_pb.Schedule:
    given = schedule_pb.Schedule()
    action = given.action.start_workflow
    action.workflow_id, action.workflow_type.name, action.task_queue.name = "w", "W", "q"
    if fault == DURATION:
        interval = given.spec.interval.add().interval
        interval.seconds, interval.nanos = 2, -1
    else:
        action.versioning_override.pinned.SetInParent()
    return given


@pytest.mark.parametrize(
    ("disabled", "fault", "refused"),
    [
        ((), DURATION, True),
        ((), OVERRIDE, True),
        (("versioning-override",), DURATION, True),
        (("scheduler-duration",), OVERRIDE, True),
        (("scheduler-duration",), DURATION, False),
        (("other", "versioning-override"), OVERRIDE, False),
    ],
)
def test_a_disabled_validation_is_logged(
    disabled: tuple[str, ...], fault: str, refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn = ThrottledWarnings(logging.getLogger(__name__), FakeClock())
    rules = Rules(FrontendConfig(disabled_schedule_validations=disabled), CountedIds(), warn)
    namespace = parse(NamespaceRecord("1", "n", b"", 1))
    create = rr.CreateScheduleRequest(schedule_id="s", request_id="r", schedule=schedule(fault))
    update = rr.UpdateScheduleRequest(schedule_id="s", schedule=schedule(fault))
    messages: list[str] = []
    try:
        check_create(create, namespace, rules)
        check_update(update, namespace, rules)
    except ServiceError as refusal:
        messages.append(refusal.message)
    logged = [record.getMessage() for record in caplog.records]
    if refused:
        assert [fault in message for message in messages] == [True]
        assert logged == []
    else:
        assert messages == []
        assert [(disabled[-1] in text, " in n: " in text, fault in text) for text in logged] == [(True, True, True)] * 2
