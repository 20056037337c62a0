"""Notes about rows that could not be processed: one a row, counted, logged once, and deleted with the row."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, cast

import pytest

from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.storage.errors import Unavailable
from whistlestop.storage.records import QueueMessage
from whistlestop.storage.set_aside import (
    FIRST_RETRY_NS,
    MAX_KNOWN,
    MAX_NOTES,
    MAX_RETRY_NS,
    QUEUE,
    Aside,
    SetAside,
    decoded,
    encoded,
    message_id,
)

if TYPE_CHECKING:
    from whistlestop.storage.interface import Store

KEY = ("ns", "wf", "run")


class Queue:
    """A store that has nothing but notes."""

    def __init__(self) -> None:
        self.messages: dict[int, QueueMessage] = {}
        self.there: set[int] = set()
        self.reads = 0
        self.fails = False

    def _check(self) -> None:
        if self.fails:
            raise Unavailable("gone")

    async def enqueue(self, message: QueueMessage) -> None:
        self._check()
        assert message.queue_name == QUEUE
        self.messages[message.message_id] = message

    async def delete_message(self, message: QueueMessage) -> None:
        self._check()
        assert message.queue_name == QUEUE
        self.messages.pop(message.message_id, None)

    async def read_queue(self, name: str, behind: int, limit: int) -> list[QueueMessage]:
        self._check()
        self.reads += 1
        assert name == QUEUE
        return [self.messages[number] for number in sorted(self.messages) if number > behind][:limit]

    async def notes_set_aside(self, limit: int) -> list[tuple[QueueMessage, bool]]:
        self._check()
        self.reads += 1
        assert limit == MAX_NOTES
        return [(message, number in self.there) for number, message in self.messages.items()]


class Bench:
    def __init__(self, queue: Queue | None = None) -> None:
        self.queue = queue or Queue()
        self.clock = FakeClock()
        self.aside = SetAside(cast("Store", self.queue), self.clock)
        self.heard: list[str] = []
        self.aside.listener = self.heard.append

    def stored(self, table: str = "executions", key: tuple[str, ...] = KEY) -> Aside | None:
        message = self.queue.messages.get(message_id(table, key))
        return decoded(message.data) if message is not None else None


def test_a_note_goes_there_and_back() -> None:
    note = Aside("executions", KEY, "broken", 3, 10, 20)
    message = encoded(note)
    assert (message.queue_name, message.message_id) == (QUEUE, note.message_id)
    assert decoded(message.data) == note
    assert note.message_id == message_id("executions", list(KEY))
    assert 0 < note.message_id < 2**63
    others = {message_id("executions", ("ns", "wf")), message_id("tasks", KEY), note.message_id}
    assert len(others) == 3


FIELDS: dict[str, Any] = {
    "table": "t", "key": ["a"], "problem": "p", "times": 1, "first_ns": 2, "last_ns": 3,
}  # fmt: skip


@pytest.mark.parametrize("missing", FIELDS)
def test_a_note_that_lacks_something_is_ignored(missing: str) -> None:
    fields = {name: value for name, value in FIELDS.items() if name != missing}
    assert decoded(json.dumps(fields).encode()) is None
    assert decoded(json.dumps(FIELDS).encode()) == Aside("t", ("a",), "p", 1, 2, 3)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"table":"t","key":1}', b"[" * 100_000])
def test_a_note_that_cannot_be_read_is_ignored(data: bytes) -> None:
    assert decoded(data) is None


def test_attempts_are_made_at_growing_intervals() -> None:
    spans = [Aside("t", KEY, "p", times, 0, 1000).next_ns - 1000 for times in range(1, 40)]
    assert spans[:3] == [FIRST_RETRY_NS, 2 * FIRST_RETRY_NS, 4 * FIRST_RETRY_NS]
    assert spans[-1] == MAX_RETRY_NS


async def test_failures_of_a_row_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    began_ns = bench.clock.now_ns()
    assert not bench.aside.is_noted("executions", KEY)
    with caplog.at_level(logging.WARNING):
        first = await bench.aside.note("executions", KEY, ValueError("bad"))
        await bench.clock.advance(7)
        second = await bench.aside.note("executions", KEY, "worse")
    assert first == Aside("executions", KEY, "ValueError: bad", 1, began_ns, began_ns)
    assert second == Aside("executions", KEY, "worse", 2, began_ns, began_ns + 7 * SECOND_NS)
    assert bench.stored() == second
    assert bench.aside.is_noted("executions", KEY)
    assert not bench.aside.is_noted("executions", ("ns", "wf", "other"))
    assert (bench.aside.counted, bench.heard) == (2, ["executions", "executions"])
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "ns/wf/run: ValueError: bad" in caplog.text


async def test_another_process_goes_on_counting() -> None:
    bench = Bench()
    await bench.aside.note("executions", KEY, "bad")
    other = Bench(bench.queue)
    other.queue.messages[message_id("executions", KEY) - 1] = QueueMessage(QUEUE, 1, b"")
    assert (await other.aside.note("executions", KEY, "bad")).times == 2
    reads = other.queue.reads
    assert (await other.aside.note("executions", KEY, "bad")).times == 3
    assert other.queue.reads == reads
    assert (await other.aside.note("executions", ("ns", "wf", "other"), "bad")).times == 1


@pytest.mark.parametrize(
    ("error", "is_traced"), [(ValueError("damaged"), False), (KeyError("bug"), True), ("text", False)]
)
async def test_a_traceback_is_logged_of_what_may_be_a_bug(
    error: Exception | str, is_traced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    await Bench().aside.note("executions", KEY, error)
    [record] = caplog.records
    assert bool(record.exc_info) == is_traced


async def test_problems_are_cut_and_storable() -> None:
    note = await Bench().aside.note("executions", KEY, "\ud800" + "x" * 600)
    assert note.problem == "?" + "x" * 499


async def test_a_note_that_cannot_be_stored_is_kept_in_the_process(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.queue.fails = True
    note = await bench.aside.note("executions", KEY, "bad")
    assert (note.times, note.first_ns, note.last_ns) == (1, bench.clock.now_ns(), bench.clock.now_ns())
    assert bench.aside.is_noted("executions", KEY)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    bench.queue.fails = False
    assert (await bench.aside.note("executions", KEY, "bad")).times == 2


async def test_a_row_that_is_read_again_and_again_is_noted_once() -> None:
    bench = Bench()
    await bench.aside.seen("executions", KEY, ValueError("bad"))
    await bench.aside.seen("executions", KEY, ValueError("bad"))
    stored = bench.stored()
    assert stored is not None
    assert stored.times == 1
    assert (bench.aside.counted, bench.heard) == (2, ["executions", "executions"])
    bench.aside.listener = None
    await bench.aside.seen("executions", KEY, ValueError("bad"))
    await bench.aside.note("executions", KEY, ValueError("bad"))
    assert bench.aside.counted == 4


async def test_the_note_of_a_processed_row_is_deleted(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    await bench.aside.note("executions", KEY, "bad")
    await bench.aside.forget("executions", KEY)
    assert bench.stored() is None
    assert not bench.aside.is_noted("executions", KEY)
    bench.queue.fails = True
    caplog.clear()
    await bench.aside.forget("executions", KEY)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_notes_of_rows_that_are_gone_are_deleted(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    await bench.aside.note("executions", KEY, "bad")
    await bench.aside.note("tasks", KEY, "bad")
    bench.queue.there = {message_id("tasks", KEY)}
    await bench.aside.tidy()
    assert bench.stored() is None
    assert bench.stored("tasks") is not None
    assert not bench.aside.is_noted("executions", KEY)
    assert bench.aside.is_noted("tasks", KEY)
    caplog.clear()
    bench.queue.fails = True
    await bench.aside.tidy()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_process_reads_the_notes_of_others_once() -> None:
    bench = Bench()
    await Bench(bench.queue).aside.note("executions", KEY, "bad")
    await bench.aside.tidy()
    assert bench.stored() is None
    reads = bench.queue.reads
    await bench.aside.tidy()
    assert bench.queue.reads == reads
    await bench.aside.note("executions", KEY, "bad")
    reads = bench.queue.reads
    await bench.aside.tidy()
    assert bench.queue.reads == reads + 1


async def test_a_process_remembers_a_limited_number_of_rows() -> None:
    bench = Bench()
    bench.aside._known = {number: Aside("t", KEY, "p", 1, 0, 0) for number in range(MAX_KNOWN - 1)}
    await bench.aside.note("executions", KEY, "bad")
    assert len(bench.aside._known) == MAX_KNOWN
    await bench.aside.note("tasks", KEY, "bad")
    assert len(bench.aside._known) == 1
