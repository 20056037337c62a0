"""`whistlestop db`, `workflow`, `task-queue` and `cluster`: a look inside without another tool."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Launch = Callable[..., Any]
    Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def migrated(run_command: Run, tmp_path: Path) -> str:
    """A database with the schema of this release and nothing in it."""
    path = str(tmp_path / "state.db")
    assert run_command("db", "migrate", "--db-filename", path).returncode == 0
    return path


async def started(server: Any, *workflow_ids: str) -> None:
    client = await server.client()
    for workflow_id in workflow_ids:
        await client.start_workflow("Order", "a payload", id=workflow_id, task_queue="orders")


def test_version(run_command: Run) -> None:
    """The package's own."""
    done = run_command("--version")
    assert (done.returncode, done.stdout) == (0, f"whistlestop {version('whistlestop')}\n")


@pytest.mark.parametrize("arguments", [[], ["server"], ["db"], ["--help"], ["workflow", "list", "--help"]])
def test_help_names_the_commands(run_command: Run, arguments: list[str]) -> None:
    """A group without a command shows its help."""
    done = run_command(*arguments)
    assert "Usage: whistlestop" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_migrate_twice_does_nothing_more(run_command: Run, migrated: str) -> None:
    """The second time there is nothing to do."""
    done = run_command("db", "migrate", "--db-filename", migrated, "-o", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["applied"] == []


def test_status_of_a_current_schema(run_command: Run, migrated: str) -> None:
    """Exit code 0, and the two versions agree."""
    done = run_command("db", "status", "--db-filename", migrated, "-o", "json")
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    assert shown["status"] == "up to date"
    assert shown["schema_version"] == shown["release_version"]


def test_a_newer_schema_is_reported_in_one_line_everywhere(run_command: Run, migrated: str) -> None:
    """Neither the server nor a command touches what a later release wrote."""
    with sqlite3.connect(migrated) as db:
        db.execute("INSERT INTO schema_version (version, name) VALUES (9999, 'from_the_future')")
    db.close()
    for arguments in (
        ["server", "start-dev", "--port", "0", "--db-filename", migrated],
        ["db", "status", "--db-filename", migrated],
        ["db", "migrate", "--db-filename", migrated],
    ):
        done = run_command(*arguments)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "9999" in done.stderr


@pytest.mark.parametrize("command", ["status", "check"])
def test_a_missing_file_is_reported_in_one_line(run_command: Run, tmp_path: Path, command: str) -> None:
    """Looking does not create a database."""
    path = tmp_path / "nothing.db"
    done = run_command("db", command, "--db-filename", str(path))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert not path.exists()


def test_no_database_named(run_command: Run) -> None:
    """It says which flags name one."""
    done = run_command("db", "status")
    assert done.returncode == 2
    assert "--db-filename" in done.stderr


async def test_check_and_backup_while_serving(start_dev: Launch, run_command: Run, tmp_path: Path) -> None:
    """The copy holds what was acknowledged, and has no findings either."""
    path, copy = str(tmp_path / "state.db"), str(tmp_path / "copy.db")
    server = start_dev("--db-filename", path)
    await started(server, "order-1")
    for arguments in (("check", "-f", path), ("backup", copy, "-f", path), ("check", "-f", copy)):
        done = await asyncio.to_thread(run_command, "db", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    listed = await asyncio.to_thread(run_command, "workflow", "list", "-f", copy, "-o", "json")
    assert [each["execution"]["workflowId"] for each in json.loads(listed.stdout)] == ["order-1"]
    done = await asyncio.to_thread(run_command, "db", "backup", copy, "-f", path)
    assert done.returncode == 1
    assert copy in done.stderr


async def test_workflow_list_over_a_server(start_dev: Launch, run_command: Run) -> None:
    """The same rows as a table and as JSON, filtered by a query."""
    server = start_dev()
    await started(server, "order-1", "order-2")
    table = await asyncio.to_thread(run_command, "workflow", "list", "--address", server.address)
    assert table.returncode == 0, table.stderr
    assert "order-1" in table.stdout
    assert "Running" in table.stdout
    listed = await asyncio.to_thread(
        run_command, "workflow", "list", "--address", server.address, "-q", "WorkflowId = 'order-2'", "-o", "json"
    )
    assert [each["execution"]["workflowId"] for each in json.loads(listed.stdout)] == ["order-2"]


async def test_workflow_show(start_dev: Launch, run_command: Run) -> None:
    """Events by name and id; payloads are not printed in the table."""
    server = start_dev()
    await started(server, "order-1")
    shown = await asyncio.to_thread(run_command, "workflow", "show", "order-1", "--address", server.address)
    assert shown.returncode == 0, shown.stderr
    assert "WorkflowExecutionStarted" in shown.stdout
    assert "WorkflowTaskScheduled" in shown.stdout
    assert "a payload" not in shown.stdout


async def test_workflow_show_of_an_unknown_id(start_dev: Launch, run_command: Run) -> None:
    """The server's words in one line."""
    server = start_dev()
    done = await asyncio.to_thread(run_command, "workflow", "show", "nobody", "--address", server.address)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "nobody" in done.stderr


def test_a_missing_server_is_reported_in_one_line(run_command: Run) -> None:
    """It names the address and the flag."""
    done = run_command("workflow", "list", "--address", "127.0.0.1:1")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "127.0.0.1:1" in done.stderr
    assert "--address" in done.stderr


async def test_task_queue_describe(start_dev: Launch, run_command: Run) -> None:
    """What waits, by kind."""
    server = start_dev()
    await started(server, "order-1", "order-2")
    done = await asyncio.to_thread(
        run_command, "task-queue", "describe", "orders", "--address", server.address, "-o", "json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["workflow"]["stats"]["approximateBacklogCount"] == "2"
    table = await asyncio.to_thread(run_command, "task-queue", "describe", "orders", "--address", server.address)
    assert "workflow" in table.stdout


async def test_cluster_members_come_and_go(start_dev: Launch, run_command: Run, tmp_path: Path) -> None:
    """A live server has a row for each of its roles; a drained one has none."""
    path = str(tmp_path / "state.db")
    server = start_dev("--db-filename", path)
    alive = json.loads((await asyncio.to_thread(run_command, "cluster", "members", "-f", path, "-o", "json")).stdout)
    assert [member["role"] for member in alive] == ["frontend", "history", "matching"]
    assert {member["address"] for member in alive} == {server.address}
    assert server.end() == 0
    gone = json.loads((await asyncio.to_thread(run_command, "cluster", "members", "-f", path, "-o", "json")).stdout)
    assert gone == []


def test_unknown_output(run_command: Run, migrated: str) -> None:
    """It names the ones that there are."""
    done = run_command("db", "status", "-f", migrated, "-o", "csv")
    assert done.returncode == 2
    assert "json" in done.stderr
