"""The official command line's `schedule` group: its JSON is the same on the real server and on ours."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.parity import servers

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.timeout(120)]

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ACTION = ("--workflow-id", "w", "--type", "T", "--task-queue", "q")


class Terminal:
    """Runs commands against one server and keeps what they print."""

    def __init__(self, address: str, schedule_id: str) -> None:
        self._address = address
        self._schedule_id = schedule_id
        self.printed: list[Any] = []

    async def run(self, *words: str) -> Any:
        process = await asyncio.create_subprocess_exec(
            servers.cli(), "schedule", *words, "--address", self._address, "-o", "json",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        text = _UUID.sub("<uuid>", _TIME.sub("<time>", out.decode()))
        self.printed.append([words[0], process.returncode, json.loads(text) if text.strip() else "", err.decode()])
        return json.loads(out) if out.strip() else None

    async def on(self, verb: str, *words: str) -> Any:
        return await self.run(verb, "-s", self._schedule_id, *words)

    async def until(self, count: int) -> None:
        """The real server acts some time after it has answered."""
        for _ in range(50):
            described = await self.on("describe")
            if int(described["info"].get("actionCount", 0)) == count:
                return
            self.printed.pop()
            await asyncio.sleep(0.1)


async def _play(address: str, schedule_id: str) -> list[Any]:
    terminal = Terminal(address, schedule_id)
    await terminal.on(
        "create", *_ACTION, "--input", "1", "--interval", "5h/1h", "--calendar", '{"hour":"3","dayOfWeek":"mon-wed"}',
        "--overlap-policy", "BufferAll", "--catchup-window", "1m", "--notes", "hello", "--schedule-memo", "a=1",
        "--time-zone", "Europe/Berlin", "--remaining-actions", "5",
    )  # fmt: skip
    await terminal.on("create", *_ACTION)
    await terminal.until(0)
    await terminal.on("toggle", "--pause", "--reason", "tea")
    await terminal.on("toggle", "--unpause", "--reason", "done")
    await terminal.on("trigger")
    await terminal.until(1)
    await terminal.on(
        "backfill", "--start-time", "2024-05-01T00:00:00Z", "--end-time", "2024-05-01T12:00:00Z",
        "--overlap-policy", "AllowAll",
    )  # fmt: skip
    await terminal.until(5)
    await terminal.on("update", *_ACTION, "--cron", "0 0 1 1 *")
    for _ in range(50):
        listed = await terminal.run("list", "--query", f"ScheduleId = '{schedule_id}'")
        if listed and "hour" in json.dumps(listed) and listed[0]["info"]["spec"]["structuredCalendar"][0].get("month"):
            break
        terminal.printed.pop()
        await asyncio.sleep(0.1)
    await terminal.on("delete")
    await terminal.on("describe")
    await terminal.on("delete")
    return terminal.printed


async def test_the_schedule_commands_print_the_same() -> None:
    schedule_id = f"cli-{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        real = await stack.enter_async_context(servers.real_server())
        ours = await stack.enter_async_context(servers.our_server("memory"))
        expected, actual = await asyncio.gather(_play(real, schedule_id), _play(ours, schedule_id))
    assert actual == expected
