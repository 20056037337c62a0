"""Compare forms of storing the mutable state of a run, for runs with few and with many pending activities.

    python -m benchmarks.state_storage [--postgres] [--sizes 1 10 50 500 1900]

One transition of a run with n pending activities changes the head of its state and one activity: every other one
records a start, and the next one replaces the activity by another. The forms:

- `whole`: one blob, copied, serialised and written with each transition (what the store does today);
- `parts`: the head in the row of the run, each pending activity in a row of its own;
- `chunks`: as `parts`, with sixteen activities of neighbouring ids in each row;
- `deltas`: what has changed is appended to a log; every 32nd transition writes the whole state and empties the log.

Printed for each: microseconds of CPU of this process per transition (statements included, without the flush to disk),
KB that the database writes ahead per transition, and microseconds of CPU for loading the run into an empty cache.
docs/decisions/0014-state-in-chunks.md has the figures.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import psycopg

from whistlestop.history.core import state_pb2 as state_pb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TRANSITIONS = 200
DELTAS = 32
CHUNK = 16
RUN = "0190f7a2-7b1e-7cc3-98c4-dc0c0c07398f"
TABLES = """
CREATE TABLE runs (run_id TEXT NOT NULL PRIMARY KEY, version BIGINT NOT NULL, data {blob} NOT NULL);
CREATE TABLE parts (run_id TEXT NOT NULL, item BIGINT NOT NULL, data {blob} NOT NULL, PRIMARY KEY (run_id, item));
CREATE TABLE deltas (
    run_id TEXT NOT NULL, version BIGINT NOT NULL, data {blob} NOT NULL, PRIMARY KEY (run_id, version)
);
"""


class Database(Protocol):
    """A database with the three tables above, and what it has written."""

    def run(self, statements: Sequence[tuple[str, tuple[object, ...]]]) -> None:
        """Execute the statements (parameters as `?`) in one transaction."""

    def rows(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        """Return the rows of a query."""

    def written(self) -> int:
        """Return the bytes written ahead so far."""


class Sqlite:
    """A file with a WAL that is never moved into the file, so that its size tells what was written."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder) / "state.db"
        self._db = sqlite3.connect(self._path, isolation_level=None)
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0;")
        self._db.executescript(TABLES.format(blob="BLOB"))

    def run(self, statements: Sequence[tuple[str, tuple[object, ...]]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        for statement, parameters in statements:
            self._db.execute(statement, parameters)
        self._db.execute("COMMIT")

    def rows(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        return self._db.execute(statement, parameters).fetchall()

    def written(self) -> int:
        return self._path.with_name("state.db-wal").stat().st_size


class Postgres:
    """A server of its own with default settings; statements of a transaction go in one pipeline."""

    def __init__(self, url: str) -> None:
        self._db = psycopg.connect(url, autocommit=True)
        for table in ("runs", "parts", "deltas"):
            self._db.execute(f"DROP TABLE IF EXISTS {table}")
        for statement in TABLES.format(blob="BYTEA").split(";")[:-1]:
            self._db.execute(statement)
        self._db.execute("CHECKPOINT")

    def run(self, statements: Sequence[tuple[str, tuple[object, ...]]]) -> None:
        with self._db.pipeline(), self._db.transaction():
            for statement, parameters in statements:
                self._db.execute(statement.replace("?", "%s"), parameters, prepare=True)

    def rows(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        return self._db.execute(statement.replace("?", "%s"), parameters, binary=True).fetchall()

    def written(self) -> int:
        row = self._db.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
        assert row is not None
        return int(row[0])


def _activity(number: int) -> state_pb.Activity:
    activity = state_pb.Activity(
        scheduled_event_id=number,
        scheduled_event_batch_id=number - number % 50,
        activity_id=str(number),
        activity_type="process_order_line",
        task_queue="orders",
        schedule_to_close_timeout_ns=10**15,
        start_to_close_timeout_ns=60 * 10**9,
        first_scheduled_ns=1_790_000_000 * 10**9 + number,
        attempt=1,
        scheduled_ns=1_790_000_000 * 10**9 + number,
        nonce=number * 7919,
        has_retry_policy=True,
    )
    activity.retry_policy.backoff_coefficient = 2.0
    activity.retry_policy.initial_interval.seconds = 1
    activity.retry_policy.maximum_interval.seconds = 100
    activity.row.task_queue = "orders"
    activity.row.task_id = number
    return activity


def _state_of(data: object) -> state_pb.MutableState:
    assert isinstance(data, bytes)
    return state_pb.MutableState.FromString(data)


def _activity_of(data: object) -> state_pb.Activity:
    assert isinstance(data, bytes)
    return state_pb.Activity.FromString(data)


def _start(activity: state_pb.Activity) -> None:
    activity.started_ns = activity.scheduled_ns + 10**6
    activity.started_identity = "4242@worker-7.example"
    activity.request_id = RUN
    activity.ClearField("row")


def _head() -> state_pb.MutableState:
    head = state_pb.MutableState(
        namespace_id=RUN,
        namespace="default",
        workflow_id="order-4711",
        run_id=RUN,
        first_run_id=RUN,
        original_run_id=RUN,
        workflow_type="Order",
        task_queue="orders",
        root_workflow_id="order-4711",
        root_run_id=RUN,
        status=1,
        start_ns=1_790_000_000 * 10**9,
        task_timeout_ns=10**10,
        sticky_task_queue="worker-7-5f3a",
    )
    head.workflow_task.attempt = 1
    head.memo["customer"].data = b'"ACME"'
    return head


def _advance(head: state_pb.MutableState, version: int) -> None:
    head.next_event_id = version
    head.state_transition_count = version
    head.history_size_bytes = version * 300


class Form(ABC):
    """A way of storing one run; the loaded state is what the engine keeps in its cache."""

    def __init__(self, db: Database, pending: int) -> None:
        self.db = db
        self.version = 1
        self.oldest, self.newest = 1, pending

    @abstractmethod
    def create(self) -> None:
        """Write the run with its first activities."""

    @abstractmethod
    def start(self, number: int) -> None:
        """Record that the activity was started."""

    @abstractmethod
    def replace(self, number: int, by: int) -> None:
        """Record the end of an activity, and schedule another."""

    @abstractmethod
    def load(self) -> int:
        """Read the run as after a restart; return the number of its pending activities."""

    def transition(self) -> None:
        self.version += 1
        if self.version % 2 == 0:
            self.start(self.oldest)
        else:
            self.newest += 1
            self.replace(self.oldest, self.newest)
            self.oldest += 1


class Whole(Form):
    """One blob for everything."""

    def create(self) -> None:
        self.state = _head()
        for number in range(self.oldest, self.newest + 1):
            self.state.activities[number].CopyFrom(_activity(number))
        self.db.run([("INSERT INTO runs VALUES (?, ?, ?)", (RUN, 1, self.state.SerializeToString()))])

    def _write(self, changed: state_pb.MutableState) -> None:
        _advance(changed, self.version)
        update = "UPDATE runs SET version = ?, data = ? WHERE run_id = ? AND version = ?"
        self.db.run([(update, (self.version, changed.SerializeToString(), RUN, self.version - 1))])
        self.state = changed

    def _copy(self) -> state_pb.MutableState:
        copy = state_pb.MutableState()
        copy.CopyFrom(self.state)
        return copy

    def start(self, number: int) -> None:
        changed = self._copy()
        _start(changed.activities[number])
        self._write(changed)

    def replace(self, number: int, by: int) -> None:
        changed = self._copy()
        del changed.activities[number]
        changed.activities[by].CopyFrom(_activity(by))
        self._write(changed)

    def load(self) -> int:
        ((data,),) = self.db.rows("SELECT data FROM runs WHERE run_id = ?", RUN)
        return len(_state_of(data).activities)


class Parts(Form):
    """A row for each activity."""

    def create(self) -> None:
        self.head = _head()
        self.items = {number: _activity(number) for number in range(self.oldest, self.newest + 1)}
        rows = [self._put(number, item) for number, item in self.items.items()]
        self.db.run([("INSERT INTO runs VALUES (?, ?, ?)", (RUN, 1, self.head.SerializeToString())), *rows])

    def _put(self, number: int, item: state_pb.Activity) -> tuple[str, tuple[object, ...]]:
        insert = "INSERT INTO parts VALUES (?, ?, ?) ON CONFLICT (run_id, item) DO UPDATE SET data = excluded.data"
        return insert, (RUN, number, item.SerializeToString())

    def _update(self) -> tuple[str, tuple[object, ...]]:
        head = state_pb.MutableState()
        head.CopyFrom(self.head)
        _advance(head, self.version)
        self.head = head
        update = "UPDATE runs SET version = ?, data = ? WHERE run_id = ? AND version = ?"
        return update, (self.version, head.SerializeToString(), RUN, self.version - 1)

    def start(self, number: int) -> None:
        item = state_pb.Activity()
        item.CopyFrom(self.items[number])
        _start(item)
        self.db.run([self._update(), self._put(number, item)])
        self.items[number] = item

    def replace(self, number: int, by: int) -> None:
        item = _activity(by)
        delete = "DELETE FROM parts WHERE run_id = ? AND item = ?"
        self.db.run([self._update(), (delete, (RUN, number)), self._put(by, item)])
        del self.items[number]
        self.items[by] = item

    def load(self) -> int:
        ((data,),) = self.db.rows("SELECT data FROM runs WHERE run_id = ?", RUN)
        _state_of(data)
        rows = self.db.rows("SELECT item, data FROM parts WHERE run_id = ?", RUN)
        return len({number: _activity_of(data) for number, data in rows})


class Chunks(Form):
    """A row for sixteen activities."""

    def create(self) -> None:
        self.head = _head()
        self.chunks: dict[int, state_pb.MutableState] = {}
        for number in range(self.oldest, self.newest + 1):
            chunk = self.chunks.setdefault(number // CHUNK, state_pb.MutableState())
            chunk.activities[number].CopyFrom(_activity(number))
        rows = [self._put(place) for place in self.chunks]
        self.db.run([("INSERT INTO runs VALUES (?, ?, ?)", (RUN, 1, self.head.SerializeToString())), *rows])

    def _changed(self, number: int) -> state_pb.MutableState:
        """Return a copy of the activity's chunk, in place of the chunk."""
        chunk = state_pb.MutableState()
        if number // CHUNK in self.chunks:
            chunk.CopyFrom(self.chunks[number // CHUNK])
        self.chunks[number // CHUNK] = chunk
        return chunk

    def _put(self, place: int) -> tuple[str, tuple[object, ...]]:
        if not self.chunks[place].activities:
            del self.chunks[place]
            return "DELETE FROM parts WHERE run_id = ? AND item = ?", (RUN, place)
        insert = "INSERT INTO parts VALUES (?, ?, ?) ON CONFLICT (run_id, item) DO UPDATE SET data = excluded.data"
        return insert, (RUN, place, self.chunks[place].SerializeToString())

    def _write(self, *places: int) -> None:
        head = state_pb.MutableState()
        head.CopyFrom(self.head)
        _advance(head, self.version)
        self.head = head
        update = "UPDATE runs SET version = ?, data = ? WHERE run_id = ? AND version = ?"
        parameters = (self.version, head.SerializeToString(), RUN, self.version - 1)
        self.db.run([(update, parameters), *(self._put(place) for place in sorted(set(places)))])

    def start(self, number: int) -> None:
        _start(self._changed(number).activities[number])
        self._write(number // CHUNK)

    def replace(self, number: int, by: int) -> None:
        del self._changed(number).activities[number]
        self._changed(by).activities[by].CopyFrom(_activity(by))
        self._write(number // CHUNK, by // CHUNK)

    def load(self) -> int:
        ((data,),) = self.db.rows("SELECT data FROM runs WHERE run_id = ?", RUN)
        _state_of(data)
        rows = self.db.rows("SELECT data FROM parts WHERE run_id = ?", RUN)
        return sum(len(_state_of(data).activities) for (data,) in rows)


class Deltas(Form):
    """A log of changes, emptied by every 32nd transition."""

    def create(self) -> None:
        self.head = _head()
        self.items = {number: _activity(number) for number in range(self.oldest, self.newest + 1)}
        self.db.run([("INSERT INTO runs VALUES (?, ?, ?)", (RUN, 1, self._whole()))])

    def _whole(self) -> bytes:
        state = state_pb.MutableState()
        state.CopyFrom(self.head)
        for number, item in self.items.items():
            state.activities[number].CopyFrom(item)
        return state.SerializeToString()

    def _write(self, delta: state_pb.MutableState) -> None:
        head = state_pb.MutableState()
        head.CopyFrom(self.head)
        _advance(head, self.version)
        self.head = head
        if self.version % DELTAS == 0:
            update = "UPDATE runs SET version = ?, data = ? WHERE run_id = ?"
            empty = "DELETE FROM deltas WHERE run_id = ?"
            self.db.run([(update, (self.version, self._whole(), RUN)), (empty, (RUN,))])
            return
        # The changed fields of the head alone.
        _advance(delta, self.version)
        delta.workflow_task.CopyFrom(head.workflow_task)
        append = "INSERT INTO deltas VALUES (?, ?, ?)"
        self.db.run([(append, (RUN, self.version, delta.SerializeToString()))])

    def start(self, number: int) -> None:
        delta = state_pb.MutableState()
        item = delta.activities[number]
        item.CopyFrom(self.items[number])
        _start(item)
        self.items[number] = item
        self._write(delta)

    def replace(self, number: int, by: int) -> None:
        delta = state_pb.MutableState()
        delta.activities[by].CopyFrom(_activity(by))
        delta.activities[number].Clear()  # says that it is gone
        del self.items[number]
        self.items[by] = delta.activities[by]
        self._write(delta)

    def load(self) -> int:
        ((data,),) = self.db.rows("SELECT data FROM runs WHERE run_id = ?", RUN)
        state = _state_of(data)
        items = dict(state.activities)
        for (delta,) in self.db.rows("SELECT data FROM deltas WHERE run_id = ? ORDER BY version", RUN):
            for number, item in _state_of(delta).activities.items():
                if item.scheduled_event_id:
                    items[number] = item
                else:
                    items.pop(number, None)
        return len(items)


FORMS: dict[str, Callable[[Database, int], Form]] = {
    "whole": Whole,
    "parts": Parts,
    "chunks": Chunks,
    "deltas": Deltas,
}


def _measure(name: str, form: Form, pending: int) -> None:
    form.create()
    for _ in range(20):
        form.transition()
    written, cpu = form.db.written(), time.process_time()
    for _ in range(TRANSITIONS):
        form.transition()
    cpu = (time.process_time() - cpu) / TRANSITIONS * 1e6
    kb = (form.db.written() - written) / TRANSITIONS / 1000
    loading = time.process_time()
    for _ in range(10):
        assert form.load() == pending
    loading = (time.process_time() - loading) / 10 * 1e6
    print(f"  {name:8} {cpu:10.0f} us  {kb:10.1f} KB  {loading:10.0f} us to load", flush=True)


def main() -> None:
    """Print a table for each number of pending activities."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", action="store_true", help="measure on Postgres (from the wheel that tests use)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 50, 500, 1900])
    given = parser.parse_args()
    url = None
    if given.postgres:
        from tests.postgres import durable_server

        url = durable_server()
    for pending in given.sizes:
        print(f"{pending} pending activities, {len(_activity(pending).SerializeToString())} bytes each")
        for name, kind in FORMS.items():
            with tempfile.TemporaryDirectory() as folder:
                db: Database = Sqlite(folder) if url is None else Postgres(url)
                _measure(name, kind(db, pending), pending)


if __name__ == "__main__":
    main()
