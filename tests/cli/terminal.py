"""Runs the official command line against one server, and keeps what it printed in a form that can be compared."""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.parity.normalise import Normaliser
from tests.parity.servers import cli
from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from temporalio.client import Client

_CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_TIMES = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?Z| [+-]\d{4} UTC)?|\b(\d+ (second|minute|hour)s? ago|now|in \d+ \w+)\b"
)
_BLANKS = re.compile(r"[ \t]+")
# In text: (what, by what it is replaced). Sizes, counts of rows and times taken are each server's own.
_OWN_WORDS = [
    (re.compile(r"\d+@[\w.-]+@"), "<identity>"),
    # In the ids of what schedules start: when that was, unless the scenario says when.
    (re.compile(r"(?<=-)(?!2024-)\d{4}-\d\d-\d\dT[\d:]+Z"), "<time>"),
    (re.compile(r"\bworker-[0-9a-f]{32}\b"), "<sticky queue>"),
    (re.compile(r"\b(taskId:|historySizeBytes:|HistorySize|StateTransitionCount|RunTime) *\S+"), r"\1 <own>"),
    (re.compile(r"sdkMetadata.coreUsedFlags.*"), "<flags>"),
    (re.compile(r"\((\d+ms|[\d.]+m?s)\)"), "(<took>)"),
    (re.compile(r"\b\d+\.\d{4,}m?s\b"), "<took>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<address>"),
]
# Numbers in JSON that are each server's own: rates are averages over time, stats come late.
# How often routing had changed when a workflow came to its version, and what rows of a queue were read: known to the
# real server alone, and not always shown.
_NOT_KEPT = {"revision_number", "ack_level", "read_level"}
_OWN = {
    "tasks_add_rate": "<rate>", "tasks_dispatch_rate": "<rate>", "backlog_increase_rate": "<rate>",
    "approximate_backlog_age": "<age>", "event_task_id": "<task id>", "conflict_token": "<token>",
    "core_used_flags": "<flags>", "nanos": "<nanos>",
    "current_host_cpu_usage": "<usage>", "current_host_mem_usage": "<usage>", "elapsed_since_last_heartbeat": "<time>",
    "duration_millis": "<took>",
}  # fmt: skip
_LONG_AGO_S = 1_000_000_000
# One call of the command line starts a process: more of them at once than there are processors help nobody.
_AT_ONCE = asyncio.Semaphore(8)
LIMIT_S = PATIENCE_S


def snake(name: str) -> str:
    """A JSON name as the proto file has it."""
    return _CAPITAL.sub(lambda found: "_" + found.group(1).lower(), name)


@dataclass(frozen=True, slots=True)
class Printed:
    """What one call left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Terminal:
    """The user of one server. Both servers are asked the same, by the same names."""

    def __init__(self, address: str, client: Client, prefix: str, *, is_ours: bool) -> None:
        self._is_ours = is_ours
        self.address = address
        self.client = client
        self.prefix = prefix
        self.transcript: list[Any] = []
        self._normal = Normaliser(prefix)

    def id(self, name: str) -> str:
        """A name that is this scenario's own."""
        return f"{self.prefix}-{name}"

    @property
    def task_queue(self) -> str:
        return self.id("queue")

    async def run(
        self, command: str, *words: str, record: bool = True, output: str = "json", said: str = "",
        namespace: str = "", shaped: Callable[[Any], Any] | None = None, ours: str = "",
    ) -> Printed:  # fmt: skip
        """One call, `command` being the path of its leaf. `said` is what the user types.

        `ours`: we refuse otherwise, and docs/compatibility.md says why; in these words.
        """
        flags = ["--address", self.address, "--color", "never", *(["-o", output] if output else [])]
        flags += ["--namespace", namespace] if namespace else []
        async with _AT_ONCE:
            printed = await _call([*command.split(), *words, *flags], said)
        if ours:
            assert printed.code == 1, printed
            assert not self._is_ours or ours in printed.err, printed
            printed = Printed(1, "", "<each its own reason>")
        if record:
            self.record(command, words, printed, shaped)
        return printed

    async def until(
        self, wanted: Callable[[Any], bool], command: str, *words: str, record: bool = True, **options: Any
    ) -> Printed:
        """The call again and again until what it prints (JSON) is what is wanted; only that is kept."""
        for _ in range(3000):
            printed = await self.run(command, *words, record=False, **options)
            if not printed.code and wanted(printed.json if printed.out.strip() else {}):
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError(f"`{command}` never came to that: {printed.out}{printed.err}")
        if record:
            self.record(command, words, printed, options.get("shaped"))
        return printed

    def record(
        self, command: str, words: Sequence[str], printed: Printed, shaped: Callable[[Any], Any] | None = None
    ) -> None:
        call = self._text(" ".join([command, *words]))
        self.transcript.append([call, printed.code, self._output(printed.out, shaped), self._text(printed.err)])

    def note(self, label: str, value: Any) -> None:
        self.transcript.append([label, self._normal.plain(value)])

    def _output(self, out: str, shaped: Callable[[Any], Any] | None) -> Any:
        try:
            value = _without_later_fields(_named(json.loads(out)))
        except ValueError:
            return self._text(out)
        return self._normal.plain(shaped(value) if shaped else value)

    def _text(self, text: str) -> Any:
        text = _own(_TIMES.sub("<time>", text))
        lines = [_BLANKS.sub(" ", self._normal.text(line)).strip() for line in text.splitlines()]
        lines = [line for line in lines if line]
        return lines[0] if len(lines) == 1 else lines


def _without_later_fields(value: Any) -> Any:
    """Leave out what the release that is compared with does not tell yet: see `tests/parity/puppet.py`."""
    if isinstance(value, dict):
        if "queryResult" in value or "query_result" in value:
            value.pop("link", None)
        if "schedule" in value and isinstance(value.get("info"), dict):
            for name in ("stateSizeBytes", "state_size_bytes"):
                value["info"].pop(name, None)
    return value


def _named(value: Any) -> Any:
    """JSON with the names of the proto files, less what is each server's own."""
    if isinstance(value, dict):
        named = {snake(key): _named(item) for key, item in value.items() if snake(key) not in _NOT_KEPT}
        if named.get("seconds", 0) > _LONG_AGO_S:
            named["seconds"] = "<time>"
        return {key: _OWN.get(key, {} if item is None and key == "metadata" else item) for key, item in named.items()}
    if isinstance(value, list):
        return [_named(item) for item in value]
    return _own(value) if isinstance(value, str) else value


def _own(text: str) -> str:
    for pattern, placeholder in _OWN_WORDS:
        text = pattern.sub(placeholder, text)
    return text


async def _call(words: Sequence[str], said: str) -> Printed:
    process = await asyncio.create_subprocess_exec(
        cli(), *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TZ": "UTC"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(LIMIT_S):
            out, err = await process.communicate(said.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        return Printed(-1, "", "still running")
    assert process.returncode is not None
    return Printed(process.returncode, out.decode(), err.decode())
