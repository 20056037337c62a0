"""`whistlestop server start-dev`: flags, ports, state, readiness, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import urllib.request
import uuid
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    ListNamespacesRequest,
    PollWorkflowTaskQueueRequest,
    StartWorkflowExecutionRequest,
)
from temporalio.service import RPCError, RPCStatusCode

from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from temporalio.client import Client

    Launch = Callable[..., Any]

SECRET = b'"the-secret-of-the-payload"'


def start_request(workflow_id: str) -> StartWorkflowExecutionRequest:
    return StartWorkflowExecutionRequest(
        namespace="default",
        workflow_id=workflow_id,
        workflow_type=WorkflowType(name="Order"),
        task_queue=TaskQueue(name="orders"),
        input=Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=SECRET)]),
        request_id=str(uuid.uuid4()),
    )


async def start(client: Client, workflow_id: str) -> str:
    return (await client.workflow_service.start_workflow_execution(start_request(workflow_id))).run_id


async def test_prints_where_it_serves_and_that_state_is_in_memory(start_dev: Launch) -> None:
    """Ports are printed; without a file it says that state goes with the process, and how to keep it."""
    server = start_dev()
    await server.client()
    assert server.end() == 0
    text = "\n".join(server.stdout)
    assert "State:   in memory" in text
    assert "--db-filename" in text
    assert server.stderr == []


def test_prints_that_no_web_ui_is_shipped(launch: Launch) -> None:
    """One line unless --headless, so that nobody looks for it."""
    server = launch("server", "start-dev", "--port", "0", "--ui-port", "0").until_ready()
    assert server.end() == 0
    assert len([line for line in server.stdout if "web UI" in line]) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_with_exit_code_0(start_dev: Launch, number: int) -> None:
    """Both ways to ask."""
    server = start_dev()
    assert server.end(number) == 0
    assert server.stderr == []


async def test_an_open_poll_ends_empty_when_the_server_drains(start_dev: Launch) -> None:
    """A worker that waits gets an answer, not a broken connection."""
    server = start_dev()
    client = await server.client()
    request = PollWorkflowTaskQueueRequest(namespace="default", task_queue=TaskQueue(name="idle"), identity="test")
    poll = asyncio.create_task(client.workflow_service.poll_workflow_task_queue(request))
    await waiting_polls(server, 1)
    assert await server.end_async() == 0
    assert (await poll).task_token == b""


async def waiting_polls(server: Any, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while f"whistlestop_polls_waiting {count}.0" not in await scrape(server):
            pass


async def scrape(server: Any) -> str:
    url = f"http://127.0.0.1:{server.port('Metrics')}/metrics"

    def get() -> str:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            text: bytes = answer.read()
        return text.decode()

    return await asyncio.to_thread(get)


async def test_state_in_a_file_survives_sigkill(start_dev: Launch, tmp_path: Path) -> None:
    """An acknowledged start is there after `kill -9` and a restart."""
    path = str(tmp_path / "state.db")
    server = start_dev("--db-filename", path)
    run_id = await start(await server.client(), "order-1")
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    server = start_dev("-f", path)
    described = await (await server.client()).workflow_service.describe_workflow_execution(
        DescribeWorkflowExecutionRequest(namespace="default", execution=WorkflowExecution(workflow_id="order-1"))
    )
    assert described.workflow_execution_info.execution.run_id == run_id


async def test_namespaces_of_the_flags_are_created(start_dev: Launch) -> None:
    """`default` is always among them."""
    server = start_dev("--namespace", "one", "-n", "two")
    client = await server.client()
    answer = await client.workflow_service.list_namespaces(ListNamespacesRequest())
    assert {"default", "one", "two"} <= {each.namespace_info.name for each in answer.namespaces}


async def test_search_attributes_of_the_flags_are_registered(start_dev: Launch, tmp_path: Path) -> None:
    """In every namespace of the flags, and again without complaint when the server restarts on its file."""
    arguments = (
        "--search-attribute",
        "Shop=Keyword",
        "--search-attribute",
        "Weight=Double",
        "-f",
        str(tmp_path / "s.db"),
    )
    server = start_dev(*arguments)
    assert server.end() == 0
    server = start_dev(*arguments, "-n", "other")
    for namespace in ("default", "other"):
        answer = await (await server.client()).operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=namespace)
        )
        assert dict(answer.custom_attributes) == {"Shop": 2, "Weight": 4}


async def test_dynamic_config_reaches_the_services(start_dev: Launch) -> None:
    """A known key changes a limit; an unknown one is warned of."""
    server = start_dev(
        "--dynamic-config-value", "limit.maxIDLength=5", "--dynamic-config-value", 'some.other.key={"a":1}'
    )
    client = await server.client()
    with pytest.raises(RPCError) as refused:
        await start(client, "too-long-an-id")
    assert refused.value.status == RPCStatusCode.INVALID_ARGUMENT
    await server.end_async()
    (warned,) = server.stderr
    assert "some.other.key changes nothing" in warned


async def test_binds_a_port_in_time_wait(launch: Launch) -> None:
    """SDKs find a port by using it once: it is in TIME_WAIT when the server is to bind it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), contextlib.closing(listener.accept()[0]) as accepted:
            accepted.shutdown(socket.SHUT_RDWR)
    server = launch("server", "start-dev", "--port", str(port), "--ip", "127.0.0.1", "--headless").until_ready()
    await server.client()
    assert server.port() == port


@pytest.mark.parametrize("flag", ["--port", "--http-port", "--metrics-port"])
def test_a_taken_port_is_reported_in_one_line(run_command: Launch, flag: str) -> None:
    """It names the address and the flag."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = {"--port": "0", flag: str(port)}
        done = run_command("server", "start-dev", "--headless", *(part for pair in flags.items() for part in pair))
    assert_one_line(done, 1, f"127.0.0.1:{port}", flag)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frobnicate"], ["--frobnicate"]),
        (["--port", "many"], ["--port", "integer"]),
        (["--port", "70000"], ["--port"]),
        (["--port"], ["--port"]),
        (["--search-attribute", "Shop"], ["Shop", "NAME=VALUE"]),
        (["--search-attribute", "Shop=Word"], ["Word", "KeywordList"]),
        (["--dynamic-config-value", "key"], ["key", "KEY=JSON"]),
        (["--dynamic-config-value", "key=value"], ["key", "JSON"]),
        (["--dynamic-config-value", 'limit.maxIDLength="x"'], ["limit.maxidlength"]),
        (["--sqlite-pragma", "fast"], ["fast"]),
        (["--log-level", "loud"], ["loud", "debug"]),
        (["--log-format", "runes"], ["runes", "json"]),
        (["what"], ["what"]),
    ],
)
def test_a_bad_flag_is_reported_in_one_line(run_command: Launch, arguments: list[str], words: list[str]) -> None:
    """It names what was given and what was expected; exit code 2."""
    assert_one_line(run_command("server", "start-dev", *arguments), 2, *words)


def test_an_unwritable_path_is_reported_in_one_line(run_command: Launch, tmp_path: Path) -> None:
    """It names the path."""
    path = tmp_path / "not-there" / "state.db"
    assert_one_line(run_command("server", "start-dev", "--port", "0", "--db-filename", str(path)), 1, str(path))


def test_a_file_that_is_no_database_is_reported_in_one_line(run_command: Launch, tmp_path: Path) -> None:
    """It names the path, and leaves the file alone."""
    path = tmp_path / "notes.txt"
    path.write_text("not a database\n" * 200)
    assert_one_line(run_command("server", "start-dev", "--port", "0", "--db-filename", str(path)), 1, str(path))
    assert path.read_text() == "not a database\n" * 200


def test_a_bad_pragma_is_reported_in_one_line(run_command: Launch) -> None:
    """It names it."""
    assert_one_line(run_command("server", "start-dev", "--port", "0", "--sqlite-pragma", "a;b=c"), 1, "a;b")


def test_an_address_of_another_machine_is_reported_in_one_line(run_command: Launch) -> None:
    """It names the address."""
    assert_one_line(run_command("server", "start-dev", "--port", "0", "--ip", "192.0.2.1"), 1, "192.0.2.1")


async def test_a_second_server_on_the_same_file_is_refused(
    start_dev: Launch, run_command: Launch, tmp_path: Path
) -> None:
    """Each would trust its own cache of busy runs."""
    path = str(tmp_path / "state.db")
    start_dev("--db-filename", path)
    done = await asyncio.to_thread(run_command, "server", "start-dev", "--port", "0", "--db-filename", path)
    assert_one_line(done, 1, path, "another server")


def assert_one_line(done: Any, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    for word in words:
        assert word in lines[0]
    assert done.stdout == ""


async def test_metrics_count_requests_transitions_and_polls(start_dev: Launch) -> None:
    """The names that dashboards rely on."""
    server = start_dev()
    client = await server.client()
    await start(client, "order-1")
    with pytest.raises(RPCError):
        await start(client, "")
    text = await scrape(server)
    assert 'whistlestop_requests_total{code="OK",rpc="StartWorkflowExecution"} 1.0' in text
    assert 'whistlestop_requests_total{code="INVALID_ARGUMENT",rpc="StartWorkflowExecution"} 1.0' in text
    assert 'whistlestop_request_seconds_bucket{le="+Inf",rpc="StartWorkflowExecution"} 2.0' in text
    assert "whistlestop_transitions_total 1.0" in text
    assert 'whistlestop_tasks_total{task_type="workflow"} 1.0' in text
    assert 'whistlestop_backlog_tasks{task_type="workflow"} 1.0' in text
    assert "whistlestop_polls_waiting 0.0" in text
    assert "orders" not in text


async def test_logs_are_json_and_silent_about_payloads(start_dev: Launch) -> None:
    """Every line is an object with a level and a message, at debug level, too."""
    server = start_dev("--log-format", "json", "--log-level", "debug")
    client = await server.client()
    await start(client, "order-1")
    with pytest.raises(RPCError):
        await start(client, "x" * 2000)
    assert await server.end_async() == 0
    entries = [json.loads(line) for line in server.stderr]
    assert entries
    assert all({"level", "ts", "msg", "logger"} <= entry.keys() for entry in entries)
    assert SECRET.decode().strip('"') not in "\n".join(server.stderr)


def test_starts_with_little_work(start_dev: Launch) -> None:
    """CPU seconds until ready: wall time is the machine's matter, this is ours (a test machine may be slow, too)."""
    server = start_dev()
    used = psutil.Process(server.process.pid).cpu_times()
    assert used.user + used.system < 1.5


def test_log_config_prints_the_configuration(start_dev: Launch) -> None:
    """As JSON on standard error."""
    server = start_dev(
        "--log-config", "--sqlite-pragma", "synchronous=normal", "--dynamic-config-value", "limit.maxIDLength=9"
    )
    assert server.end() == 0
    shown = json.loads("\n".join(server.stderr))
    assert shown["sqlite_pragmas"] == {"synchronous": "normal"}
    assert shown["dynamic_config"] == {"limit.maxidlength": 9}
