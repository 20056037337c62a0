"""Rules of the store that need no database: limits to the byte, texts of errors, migrations, statements, notifications."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from tests.storage.factories import NAMESPACE, QUEUE, close, current, run_key, start, step, task, timer, transfer
from tests.storage.factories import visibility as visibility_row
from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.common.notify import closed_topic, execution_topic, query_topic, task_queue_topic
from whistlestop.storage import limits
from whistlestop.storage.errors import (
    CannotOpen,
    CurrentConflict,
    LeaseLost,
    PermanentError,
    Refused,
    SchemaMismatch,
    StorageError,
    TimedOut,
    TooLarge,
    Unavailable,
    Unreadable,
    VersionConflict,
    is_transient,
)
from whistlestop.storage.membership_heartbeat import EXPIRY_NS, INTERVAL_NS, MembershipHeartbeat
from whistlestop.storage.migrations import Applied, Migration, SchemaStatus, missing, refuse_newer, statements, status
from whistlestop.storage.notifications import (
    notification_queue_keys,
    notification_queue_record,
    task_topics,
    tasks_of,
    topics_of,
)
from whistlestop.storage.postgres.base import memo_in_chunks, memo_parts, split
from whistlestop.storage.postgres.connection import CHUNK_BYTES, conninfo, is_contention, is_permanent, one_line
from whistlestop.storage.postgres.connection import translate as postgres_translate
from whistlestop.storage.postgres.notify import PAYLOAD_BYTES, PostgresNotifier, digest, payloads
from whistlestop.storage.postgres.schema import statements as postgres_statements
from whistlestop.storage.postgres.statement import FEW_ROWS, Statement, numbered
from whistlestop.storage.postgres.store import PostgresStore
from whistlestop.storage.postgres.writer import TransitionWriter
from whistlestop.storage.records import (
    Backlog,
    BranchRange,
    CurrentWrite,
    Member,
    PollerRecord,
    TaskKey,
    Transition,
    add_backlog,
    own_branch,
)
from whistlestop.storage.sqlite.connection import translate as sqlite_translate
from whistlestop.storage.sqlite.store import SqliteStore
from whistlestop.storage.status import service_error

# ---- errors ----------------------------------------------------------------------------------------------------------


def test_errors_of_conditions_say_what_was_found() -> None:
    version = VersionConflict(run_key())
    assert (str(version), version.key) == ("execution order-7/run-1 was changed by another writer", run_key())
    found = current(run_key())
    conflict = CurrentConflict(found)
    assert str(conflict) == "the current run of the workflow id is not the expected one"
    assert conflict.current is found


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (Unavailable(), True), (TimedOut(), True), (VersionConflict(run_key()), True), (CurrentConflict(None), True),
        (LeaseLost(), True), (SchemaMismatch(), True), (CannotOpen(), True), (PermanentError(), False),
        (Refused(), False), (TooLarge(), False), (Unreadable(), False), (StorageError(), False), (ValueError(), False),
    ],
)  # fmt: skip
def test_errors_that_may_pass(error: Exception, transient: bool) -> None:
    assert is_transient(error) == transient


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TooLarge("x"), "The request is too large for the store: x"),
        (Refused("x"), "The store can't hold the request: x"),
        (Unreadable("x"), "x"),
        (SchemaMismatch("x"), "The database's schema is not that of this release: run `whistlestop db migrate`."),
        (PermanentError("x"), "The database refused the call and will until repaired: see the server's log."),
        (StorageError("x"), "The store did not answer. Try again."),
    ],
)
def test_errors_of_the_store_as_callers_get_them(error: StorageError, message: str) -> None:
    assert service_error(error).message == message


def test_errors_of_the_databases_keep_their_words() -> None:
    assert one_line(ValueError("a\n  b")) == "a b"
    assert str(postgres_translate(errors.UndefinedTable("no\ntable"))) == (
        "the database's schema is older than this release (no table): run `whistlestop db migrate`"
    )
    assert str(postgres_translate(errors.QueryCanceled("x"))) == "the database stopped the statement: x"
    assert str(postgres_translate(ValueError("x"))) == "the statement was not sent to the database: ValueError: x"
    assert str(postgres_translate(errors.InvalidTextRepresentation("x"))) == "a value that no store holds"
    assert "(SQLSTATE 54000)" in str(postgres_translate(errors.ProgramLimitExceeded("x")))
    assert str(postgres_translate(errors.SyntaxError("x"))) == "the database refused the statement: x (SQLSTATE 42601)"
    assert "(SQLSTATE 26000)" in str(postgres_translate(errors.InvalidSqlStatementName("x")))
    assert str(postgres_translate(errors.DiskFull("x"))) == "the database did not run the statement: x (SQLSTATE 53100)"
    assert str(sqlite_translate(OSError("x"))) == "the database's files can't be accessed: x"
    assert str(sqlite_translate(ValueError("x"))) == "the statement was not run: ValueError: x"
    assert type(sqlite_translate(ValueError("x"))) is StorageError


@pytest.mark.parametrize(
    ("error", "permanent", "contention"),
    [
        (errors.SyntaxError(), True, False), (errors.SerializationFailure(), False, True),
        (errors.DeadlockDetected(), False, True), (errors.DiskFull(), False, False), (KeyboardInterrupt(), False, False),
    ],
)  # fmt: skip
def test_errors_after_which_a_statement_is_run_again(error: BaseException, permanent: bool, contention: bool) -> None:
    assert is_permanent(error) == permanent
    assert is_contention(error) == contention


# ---- limits ----------------------------------------------------------------------------------------------------------

TEXTS: dict[str, Any] = {
    "workflow id": lambda text: start(run_key(workflow=text), visibility=None),
    "task queue": lambda text: start(tasks_added=(replace(task(1), key=task(1).key._replace(task_queue=text)),)),
    "timer": lambda text: start(timer=timer(5, run_key(workflow=text))),
    "retention timer": lambda text: start(retention_timer=timer(5, run_key(workflow=text))),
    "transfer task": lambda text: start(transfer_tasks_added=(transfer(1, run_key(workflow=text)),)),
    "request id": lambda text: start(current=CurrentWrite(current(run_key(), create_request_id=text), None)),
    "workflow type": lambda text: start(visibility=visibility_row(workflow_type=text)),
    "row's task queue": lambda text: start(visibility=visibility_row(task_queue=text)),
    "parent": lambda text: start(visibility=visibility_row(parent_workflow_id=text)),
    "root": lambda text: start(visibility=visibility_row(root_workflow_id=text)),
}


@pytest.mark.parametrize("where", TEXTS)
def test_a_text_that_no_store_holds(where: str) -> None:
    limits.check_transition(Transition((TEXTS[where]("good"),)))
    with pytest.raises(Refused, match=r"the text 'b\\x00d' contains U\+0000"):
        limits.check_transition(Transition((step(), TEXTS[where]("b\0d"))))


SIZES: dict[str, tuple[str, int, Any]] = {
    "mutable state": ("CHUNKED_LIMIT", 0, lambda size: start(state=bytes(size))),
    "history batch": ("CHUNKED_LIMIT", 0, lambda size: start(history=(replace(start().history[0], data=bytes(size)),))),
    "transfer task": ("CHUNKED_LIMIT", 0, lambda size: start(transfer_tasks_added=(transfer(1, data=bytes(size)),))),
    "memo": ("CHUNKED_LIMIT", 0, lambda size: start(visibility=visibility_row(memo=bytes(size)))),
    "task": ("VALUE_LIMIT", 1 << 20, lambda size: start(tasks_added=(task(1, data=bytes(size)),))),
    "search attributes": (
        "VALUE_LIMIT", 1 << 20, lambda size: start(visibility=visibility_row(search_attributes="x" * size))
    ),
    "timer": ("TIMER_LIMIT", 1 << 10, lambda size: start(retention_timer=replace(timer(5), data=bytes(size)))),
}  # fmt: skip


@pytest.mark.parametrize("what", SIZES)
def test_values_have_a_largest_size(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, most, write = SIZES[what]
    if not most:
        most = 1000
        monkeypatch.setattr(limits, name, most)
    limits.check_transition(Transition((write(most),)))
    with pytest.raises(TooLarge, match=f"{what}: {most + 1} bytes"):
        limits.check_transition(Transition((write(most + 1),)))


def test_answers_have_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits.CHUNKED_LIMIT == 64 * 1024 * 1024
    monkeypatch.setattr(limits, "CHUNKED_LIMIT", 1000)
    limits.check_transition(Transition((), answers=(("q", run_key(), bytes(1000)),)))
    with pytest.raises(TooLarge, match="query answer: 1001 bytes; 1000 are accepted"):
        limits.check_transition(Transition((), answers=(("q", run_key(), bytes(1001)),)))


# ---- records ---------------------------------------------------------------------------------------------------------


def test_the_range_that_a_run_writes_itself() -> None:
    assert own_branch([], "b") == BranchRange("b", 1, 2**62)
    assert own_branch([BranchRange("a", 1, 3), BranchRange("c", 3, 7)], "b") == BranchRange("b", 7, 2**62)


def test_backlogs_of_levels_are_added_up_by_priority() -> None:
    found: dict[int, Backlog] = {}
    add_backlog(found, 3, 0, 5, 10)
    assert found == {}
    add_backlog(found, 3, 4, None, 10)
    assert found == {3: Backlog(4, None)}
    add_backlog(found, 3, 5, 7, 10)
    assert found == {3: Backlog(9, 7)}
    add_backlog(found, 3, 5, 6, 10)
    assert found == {3: Backlog(10, 6)}
    add_backlog(found, 1, 1, 9, 10)
    assert found == {3: Backlog(10, 6), 1: Backlog(1, 9)}


def test_defaults_of_records() -> None:
    assert task(1) == replace(task(1), sticky=True)
    bare = transfer(1)
    assert (bare.attempt, timer(5).data, task(1).query_id, task(1).data, task(1).sticky) == (0, b"", "", b"", False)
    assert start().data_encoding == "proto3"


# ---- migrations ------------------------------------------------------------------------------------------------------

KNOWN = [
    Migration(1, "0001_a", ""), Migration(3, "0003_c", "-- contract: oldest 0001"), Migration(4, "0004_d", "CREATE"),
    Migration(5, "0005_e", "-- contract: oldest 0004\nDROP"), Migration(6, "0006_f", "x\n-- contract: oldest 0004"),
    Migration(7, "0007_g", "-- contract: oldest 0004 x"),
]  # fmt: skip


def test_kinds_of_migrations() -> None:
    assert [(each.oldest, each.is_contract) for each in KNOWN] == [
        (1, False), (3, False), (0, False), (4, True), (0, False), (0, False),
    ]  # fmt: skip


def test_migrations_that_are_missing() -> None:
    applied = Applied(frozenset({1, 3}), 3)
    assert [each.version for each in missing(KNOWN, applied, contract=False)] == [4, 6, 7]
    assert [each.version for each in missing(KNOWN, applied, contract=True)] == [4, 5, 6, 7]
    assert status(KNOWN, applied) == SchemaStatus(3, 7, ("0004_d", "0006_f", "0007_g"), ("0005_e",))
    assert status(KNOWN, Applied(frozenset(), 0)).version == 0
    refuse_newer("it", KNOWN, 7)
    with pytest.raises(SchemaMismatch) as refused:
        refuse_newer("it", KNOWN, 8)
    assert str(refused.value) == (
        "it has schema version 8, this release serves up to 7: use the release that wrote it, or a newer one"
    )


def test_a_migration_is_split_into_statements() -> None:
    sql = '-- a; b\nCREATE TABLE t (\n  -- c; d\n  x INT\n);\n\n;CREATE INDEX i ON t (x DESC COLLATE "C");'
    assert statements(sql) == ["CREATE TABLE t (\n  x INT\n)", 'CREATE INDEX i ON t (x DESC COLLATE "C")']
    assert postgres_statements(sql) == statements(sql)
    assert postgres_statements(sql, dsql=True)[1] == "CREATE INDEX ASYNC i ON t (x)"


# ---- statements ------------------------------------------------------------------------------------------------------


def test_a_statement_is_put_together() -> None:
    made = Statement()
    assert made.add("a", 2) == "$1, $2"
    assert made.add("b") == "$3"
    made.expression("ok", "SELECT 1")
    made.insert("put", "t (x, y)", ("text", "bigint"), [("c", 4)], "RETURNING x")
    assert made.text("SELECT 2").decode() == (
        "WITH ok AS (SELECT 1), put AS (INSERT INTO t (x, y) SELECT * FROM (VALUES ($4::text, $5::bigint)) AS r"
        " WHERE EXISTS (SELECT 1 FROM ok) RETURNING x) SELECT 2"
    )
    assert made.parameters == ["a", 2, "b", "c", 4]
    assert numbered("x = %s AND y = %s") == "x = $1 AND y = $2"
    assert numbered("x = ? AND y = ?", "?") == "x = $1 AND y = $2"
    assert numbered("x") == "x"


def test_many_rows_are_sent_as_arrays() -> None:
    few, many = Statement(), Statement()
    rows = [(str(number), number) for number in range(FEW_ROWS)]
    assert few.rows(("text", "bigint"), rows).startswith("(VALUES ($1::text, $2::bigint), ($3::text, $4::bigint)")
    assert few.parameters == [each for row in rows for each in row]
    assert many.rows(("text", "bigint"), [*rows, ("x", 9)]) == "unnest($1::text[], $2::bigint[]) AS r"
    assert many.parameters == [["0", "1", "2", "3", "x"], [0, 1, 2, 3, 9]]


@pytest.mark.parametrize(
    ("size", "parts"),
    [(0, []), (CHUNK_BYTES, []), (CHUNK_BYTES + 1, [1]), (2 * CHUNK_BYTES, [CHUNK_BYTES]),
     (3 * CHUNK_BYTES + 5, [CHUNK_BYTES, CHUNK_BYTES, 5])],
)  # fmt: skip
def test_a_long_value_is_split(size: int, parts: list[int]) -> None:
    data = bytes(number % 251 for number in range(1000)) * (size // 1000 + 1)
    first, more = split(data[:size])
    assert [len(part) for part in more] == parts
    assert first + b"".join(more) == data[:size]


def test_a_memo_in_chunks_is_an_empty_memo_to_the_first_release() -> None:
    for parts in (1, 9, 10, 123):
        assert memo_parts(memo_in_chunks(parts)) == parts
    assert memo_parts(b"") == memo_parts(b"\n\x05memo") == 0


def test_connections_notice_a_dead_server_soon() -> None:
    given = conninfo_to_dict(conninfo("postgresql://u@h:1/d?keepalives_idle=99"))
    assert {name: str(given[name]) for name in given} == {
        "user": "u", "host": "h", "port": "1", "dbname": "d", "keepalives_idle": "99", "keepalives_interval": "5",
        "keepalives_count": "3", "tcp_user_timeout": "15000",
    }  # fmt: skip
    assert conninfo_to_dict(conninfo("postgresql://u:old@h/d", lambda: "token"))["password"] == "token"


# ---- notifications ---------------------------------------------------------------------------------------------------


def test_a_notification_queue_is_a_row_among_the_pollers() -> None:
    assert notification_queue_record(NAMESPACE, QUEUE, 2, "sqs", 5, 9) == PollerRecord(
        NAMESPACE, QUEUE, -2, "sqs", 5, b"", 9
    )
    other = replace(task(2), key=TaskKey(NAMESPACE, QUEUE, 2, 3, 2))
    assert notification_queue_keys([task(1), task(3), other]) == [(NAMESPACE, QUEUE, -2), (NAMESPACE, QUEUE, -1)]


def test_topics_of_a_commit() -> None:
    key = run_key()
    closing = close(tasks_added=(task(1), task(2)))
    transition = Transition((closing,), answers=(("q", key, b""),))
    queue = task_queue_topic(NAMESPACE, QUEUE, 1)
    assert topics_of(transition) == [
        execution_topic(*key), closed_topic(key.namespace_id, key.run_id), query_topic("q"), queue, queue
    ]  # fmt: skip
    assert topics_of(Transition((start(),))) == [execution_topic(*key)]
    assert tasks_of(transition) == [task(1), task(2)]
    assert task_topics([]) == []


def test_payloads_are_filled_to_the_byte() -> None:
    item = "x" * 12
    fits = (PAYLOAD_BYTES - 2) // 13
    assert [len(line.split()) - 1 for line in payloads("me", [item] * (fits + 1))] == [fits, 1]
    assert len(payloads("me", [item] * fits)) == 1
    sender = "m" * (PAYLOAD_BYTES - 13)
    assert payloads(sender, [item]) == [f"{sender} {item}"]
    assert payloads("me", []) == []
    assert len(digest("a topic")) == 12


def _notifier() -> tuple[PostgresNotifier, FakeClock]:
    clock = FakeClock()
    return PostgresNotifier("postgresql://127.0.0.1:1/nothing", clock), clock


async def test_a_process_that_is_alone_sends_nothing_until_there_is_another() -> None:
    notifier, clock = _notifier()
    notifier._received_ns = clock.steady_ns()
    sends = [notifier.others]
    for delay_s, cannot_listen in ((30, False), (0.001, True), (0, False)):
        await clock.advance(delay_s)
        notifier._cannot_listen = cannot_listen
        notifier.mark_alone()
        sends.append(notifier.others)
    assert sends == [True, True, True, False]


async def test_only_a_started_notifier_with_others_has_something_to_send() -> None:
    notifier, _ = _notifier()
    notifier.publish(["a"])
    assert not notifier._has_unsent.is_set()
    notifier._tasks = cast("Any", [object()])
    notifier.others = False
    notifier.publish(["a"])
    assert not notifier._has_unsent.is_set()
    notifier.others = True
    notifier.publish(["a", "b"])
    assert notifier._has_unsent.is_set()
    assert not notifier._sent.is_set()
    assert notifier._unsent == {digest("a"), digest("b")}


def test_only_sqlite_ends_a_write_before_its_caller_is_cancelled() -> None:
    assert SqliteStore(":memory:").defers_cancellation
    assert not PostgresStore("postgresql://127.0.0.1:1/nothing").defers_cancellation


async def test_a_closed_writer_takes_nothing() -> None:
    writer = TransitionWriter(cast("Any", None), 1)
    await writer.close()
    with pytest.raises(Unavailable, match="the store is closed"):
        await writer.commit(cast("Any", None))


# ---- function instances ----------------------------------------------------------------------------------------------


class Members:
    def __init__(self) -> None:
        self.seen: list[Member] = []
        self.fails = False

    async def heartbeat(self, *members: Member) -> list[Member]:
        if self.fails:
            raise Unavailable("gone")
        self.seen += members
        return []


async def test_an_instance_renews_its_row_every_half_minute(caplog: pytest.LogCaptureFixture) -> None:
    assert (INTERVAL_NS, EXPIRY_NS) == (30 * SECOND_NS, 90 * SECOND_NS)
    store, clock = Members(), FakeClock()
    beat = MembershipHeartbeat(cast("Any", store), clock, "i", "history")
    began_ns = clock.now_ns()
    await beat.renew()
    await clock.advance(29.999)
    await beat.renew()
    assert store.seen == [Member("i/history", "history", "", 0, began_ns, began_ns, began_ns + EXPIRY_NS)]
    await clock.advance(0.001)
    store.fails = True
    await beat.renew()
    assert len(caplog.records) == 1
    store.fails = False
    await beat.renew()
    assert len(store.seen) == 1
    await clock.advance(30)
    await beat.renew()
    assert (store.seen[1].session_start_ns, store.seen[1].last_heartbeat_ns) == (began_ns, clock.now_ns())
