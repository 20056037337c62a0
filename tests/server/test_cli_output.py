"""What the CLI prints is fit for eyes, pipes and programs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.server.cli import workflow_summary
from whistlestop.server.cli.errors import CommandError
from whistlestop.server.cli.escaping import escaped
from whistlestop.server.cli.output import as_json, form_of, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

LONG_ID = "order-" + "0123456789" * 12
COLUMNS = ("status", "workflow id", "type", "run id")
ROW = ("Running", LONG_ID, "Order", "01a22aae-26b3-7ad8-8fbc-ebdf9b65579c")
_PRINT = f"""
from whistlestop.server.cli.output import print_table
print_table({COLUMNS!r}, [("Running", "short-id", "Order", {ROW[3]!r}), {ROW!r}], optional=("type", "run id"))
"""


def on_a_terminal(program: str, columns: int, **environ: str) -> str:
    """Return what a program prints to a terminal of so many columns."""
    mine, its = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", **environ}
    with subprocess.Popen([sys.executable, "-c", program], stdout=its, stderr=its, env=environment) as running:
        os.close(its)
        chunks = []
        try:
            while chunk := os.read(mine, 65536):
                chunks.append(chunk)
        except OSError:  # the other side is closed
            pass
        finally:
            os.close(mine)
        assert running.wait() == 0, chunks
    return b"".join(chunks).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [40, 80, 120, 400])
def test_ids_are_never_broken_on_a_terminal(columns: int) -> None:
    lines = on_a_terminal(_PRINT, columns, NO_COLOR="1").splitlines()
    assert sum(LONG_ID in line for line in lines) == 1
    assert sum("short-id" in line for line in lines) == 1


def test_a_narrow_terminal_loses_optional_columns_and_a_wide_one_none() -> None:
    narrow, wide = (on_a_terminal(_PRINT, columns) for columns in (80, 400))
    assert (ROW[3] in narrow, ROW[3] in wide) == (False, True)
    assert "status" in narrow


def test_a_pipe_gets_every_column_on_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [ROW, ROW], optional=COLUMNS)
    found = [line for line in capsys.readouterr().out.splitlines() if LONG_ID in line]
    assert [tuple(line.split()) for line in found] == [ROW, ROW]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ümläut 駅", "plain ümläut 駅"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x07\x7f\x9b", "\\x07\\x7f\\x9b"),
        ("\u202egnp.exe\u2028", "\\u202egnp.exe\\u2028"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert escaped(text) == shown
    print_table(("id",), [(text,)])
    assert shown in capsys.readouterr().out
    print_json([text])
    printed = capsys.readouterr().out
    assert json.loads(printed) == [text]
    assert all(character == "\n" or character.isprintable() for character in printed)


def test_search_attributes_are_values_in_json() -> None:
    info = workflow_pb.WorkflowExecutionInfo()
    payload = info.search_attributes.indexed_fields["BuildIds"]
    payload.metadata["encoding"], payload.metadata["type"], payload.data = b"json/plain", b"KeywordList", b'["x"]'
    assert as_json(info) == {"searchAttributes": {"indexedFields": {"BuildIds": ["x"]}}}


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(CommandError, match='"yaml" is not one of table, json, jsonl, none'):
        form_of("yaml")


def value(data: bytes, encoding: bytes = b"json/plain") -> common_pb.Payload:
    return common_pb.Payload(metadata={"encoding": encoding}, data=data)


def timer(event_id: int, timer_id: str) -> history_pb.HistoryEvent:
    event = history_pb.HistoryEvent(event_id=event_id, event_type=17)  # type: ignore[arg-type]
    event.event_time.seconds = 1_700_000_000
    event.timer_started_event_attributes.timer_id = timer_id
    event.timer_started_event_attributes.start_to_fire_timeout.seconds = 60
    return event


def _completed() -> history_pb.HistoryEvent:
    event = history_pb.HistoryEvent(event_type=2)  # type: ignore[arg-type]
    result = event.workflow_execution_completed_event_attributes.result
    result.payloads.extend([value(b'{"a":1}'), value(b"", b"binary/null"), value(b"xyz", b"binary/encrypted")])
    return event


def _failed() -> history_pb.HistoryEvent:
    event = history_pb.HistoryEvent(event_type=3)  # type: ignore[arg-type]
    failure = event.workflow_execution_failed_event_attributes.failure
    failure.message = "Activity task failed"
    failure.cause.message = "no\x1b money"
    failure.cause.application_failure_info.type = "BankDown"
    return event


@pytest.mark.parametrize(
    ("closing", "lines"),
    [
        (_completed, ['result: {"a": 1}, null, (binary/encrypted, 3 bytes)']),
        (_failed, ["failure: Activity task failed", "caused by: BankDown: no\\x1b money"]),
    ],
)
def test_show_prints_how_a_workflow_ended(
    closing: Callable[[], Any], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    workflow_summary.print_execution(rr.DescribeWorkflowExecutionResponse(), [], closing())
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in printed if line in lines] == lines


def test_show_prints_what_is_pending(capsys: pytest.CaptureFixture[str]) -> None:
    described = rr.DescribeWorkflowExecutionResponse()
    activity = described.pending_activities.add(activity_id="7", attempt=3, maximum_attempts=5)
    activity.activity_type.name = "charge"
    activity.last_failure.CopyFrom(
        failure_pb.Failure(
            message="refused", application_failure_info=failure_pb.ApplicationFailureInfo(type="BankDown")
        )
    )
    activity.next_attempt_schedule_time.seconds = 1_700_000_000
    fired = history_pb.HistoryEvent(event_id=3, event_type=18)  # type: ignore[arg-type]
    fired.timer_fired_event_attributes.timer_id = "over"
    workflow_summary.print_execution(described, [timer(1, "over"), timer(2, "waits"), fired], None)
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert ["7", "charge", "3", "of", "5", "2023-11-14T22:13:20Z", "BankDown:", "refused"] in [
        [word for word in row if word != "Unspecified"] for row in rows
    ]
    assert ["waits", "2023-11-14T22:14:20Z"] in rows
    assert [row for row in rows if row[:1] == ["over"]] == []
