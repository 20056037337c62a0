"""`temporal schedule`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.cli.scenarios import scenario

if TYPE_CHECKING:
    from tests.cli.terminal import Terminal

_ACTION = ("--workflow-id", "w", "--type", "T", "--task-queue", "q")


def _acted(count: int) -> Any:
    """The real server acts some time after it has answered."""
    return lambda described: int(described["info"].get("actionCount", 0)) == count


@scenario
async def schedules(t: Terminal) -> None:
    of = ("-s", t.id("a"))
    await t.run(
        "schedule create", *of, *_ACTION, "--input", "1", "--interval", "5h/1h", "--calendar",
        '{"hour":"3","dayOfWeek":"mon-wed"}', "--overlap-policy", "BufferAll", "--catchup-window", "1m", "--notes", "hello",
        "--schedule-memo", "a=1", "--time-zone", "Europe/Berlin", "--remaining-actions", "5", "--static-summary", "early",
        "--schedule-search-attribute", 'CustomKeywordField="k"',
    )  # fmt: skip
    await t.run(
        "schedule create", *of, *_ACTION, "--input", "1", "--interval", "5h/1h", "--calendar",
        '{"hour":"3","dayOfWeek":"mon-wed"}', "--overlap-policy", "BufferAll", "--catchup-window", "1m", "--notes", "hello",
        "--schedule-memo", "a=1", "--time-zone", "Europe/Berlin", "--remaining-actions", "5", "--static-summary", "early",
        "--memo", "b=2", "--priority-key", "2", "--jitter", "1s", "--pause-on-failure", "--execution-timeout", "1h",
        "--start-time", "2020-01-01T00:00:00Z", "--end-time", "2999-01-01T00:00:00Z",
    )  # fmt: skip
    await t.run("schedule create", *of, *_ACTION)
    await t.until(_acted(0), "schedule describe", *of)
    await t.run("schedule describe", *of, output="text", record=False)
    await t.run("schedule toggle", *of, "--pause", "--reason", "tea")
    await t.run("schedule toggle", *of, "--unpause", "--reason", "done")
    await t.run("schedule trigger", *of)
    await t.until(_acted(1), "schedule describe", *of)
    await t.run(
        "schedule backfill", *of, "--start-time", "2024-05-01T00:00:00Z", "--end-time", "2024-05-01T12:00:00Z",
        "--overlap-policy", "AllowAll",
    )  # fmt: skip
    await t.until(_acted(5), "schedule describe", *of)
    await t.run(
        "schedule list-matching-times",
        *of,
        "--start-time",
        "2024-05-01T00:00:00Z",
        "--end-time",
        "2024-05-02T12:00:00Z",
    )
    await t.run("schedule update", *of, *_ACTION, "--cron", "0 0 1 1 *")
    query = ("-q", f"ScheduleId = '{t.id('a')}'")
    await t.until(_yearly, "schedule list", *query)
    await t.run("schedule list", *query, output="text")
    await t.run("schedule list", *query, "--really-long", output="text")
    await t.run("schedule delete", *of)


def _yearly(listed: Any) -> bool:
    return bool(listed) and "month" in json.dumps(listed[0]["info"]["spec"])


@scenario
async def that_is_not_there(t: Terminal) -> None:
    of = ("-s", t.id("nobody"))
    await t.run("schedule describe", *of)
    await t.run("schedule delete", *of)
    await t.run("schedule trigger", *of)
    await t.run("schedule toggle", *of, "--pause")
    await t.run("schedule update", *of, *_ACTION)
    await t.run(
        "schedule list-matching-times",
        *of,
        "--start-time",
        "2024-05-01T00:00:00Z",
        "--end-time",
        "2024-05-02T12:00:00Z",
    )
    await t.run("schedule create", *of, *_ACTION, "--cron", "what", "--paused")
    await t.run("schedule create", *of, *_ACTION, "--time-zone", "Nowhere/None", "--cron", "0 0 * * *")
    await t.run("schedule list", "-q", "Nonsense = 1")
