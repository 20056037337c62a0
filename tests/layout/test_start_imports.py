"""What a start of `whistlestop server start-dev` imports: suites of SDKs start servers all the time.

Names and counts of modules are absolute; CPU is a ratio to the imports that no start can avoid (the event loop, SQLite and
Temporal's messages), measured in turns in the same run, as for functions (`test_import_time`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from tests.imports import compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_MODULES = 495
"""451 when this was written; 630 before history and matching came later, and 989 in release 0.1.0."""
MOST_RATIO = 2.4
"""1.3 when this was written; 2.0 before, and 4.4 in release 0.1.0."""
UNWANTED = {
    "typer", "click", "rich", "pydantic", "argparse", "grpc", "uvicorn", "httptools", "prometheus_client", "sqlglot",
    "psycopg", "boto3", "botocore", "jwt", "cryptography", "cronsim", "temporalio.service", "temporalio.bridge",
    "temporalio.client", "google.protobuf.json_format", "importlib.metadata", "importlib.resources", "email",
    "http.client", "http.server", "urllib.request", "zoneinfo", "decimal", "tempfile", "multiprocessing", "tomllib",
    "whistlestop.storage.postgres", "whistlestop.bridge", "whistlestop.deploy", "whistlestop.server.cli.app",
    "whistlestop.frontend.endpoints.http", "whistlestop.net.http.protocol", "whistlestop.server.metrics.exposition",
    "whistlestop.history.service", "whistlestop.matching.service", "whistlestop.frontend.api.visibility",
    "whistlestop.storage.visibility",
}  # fmt: skip
_START = """
import json, os, sys, time
from whistlestop.server.cli import main

def told(server, title, hints):
    used = time.process_time() * 1000
    print(json.dumps({"cpu_ms": used, "modules": sorted(sys.modules), "port": server.port}), flush=True)
    os._exit(0)

class Watching:
    def find_spec(self, name, path=None, target=None):
        if name == "whistlestop.server.process":
            import whistlestop.server.cli.start.serve as serve
            serve._announce = told
            sys.meta_path.remove(self)
        return None

sys.meta_path.insert(0, Watching())
main(sys.argv[1:])
"""
_UNCALLED = """
import asyncio, gc, json, os, sys
from whistlestop.server.cli import main

switch_on = gc.enable

def told():
    switch_on()
    tasks = [task.get_name() for task in asyncio.all_tasks()]
    print(json.dumps({"modules": len(sys.modules), "frozen": gc.get_freeze_count(), "tasks": tasks}), flush=True)
    os._exit(0)

gc.enable = told
main(sys.argv[1:])
"""
_UNAVOIDABLE = """
import gc, json, sys, time
from whistlestop.server.cli.start.message_imports import import_messages_alone
import_messages_alone()
gc.disable()
import asyncio, uvloop, sqlite3
import temporalio.api.workflowservice.v1.service_pb2
print(json.dumps({"cpu_ms": time.process_time() * 1000, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module", autouse=True)
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have bytecode written and read, whatever the environment says of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


def run(code: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def start() -> dict[str, Any]:
    """Start a development server up to where it serves, and tell what that took."""
    return run(_START, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", "0")


@cache
def started() -> dict[str, Any]:
    return start()


def test_a_start_imports_nothing_that_it_does_not_need() -> None:
    modules = set(started()["modules"]) - {"grpc"}  # that stands there as one that is not to be had
    assert UNWANTED & modules == set()
    assert started()["port"] > 0


def test_a_start_imports_no_more_modules_than_it_did() -> None:
    assert len(started()["modules"]) <= MOST_MODULES


def test_a_start_costs_little_beside_what_no_start_can_avoid(
    record_property: Callable[[str, object], None],
) -> None:
    compared = compare(start, lambda: run(_UNAVOIDABLE), MOST_RATIO)
    record_property("ratio", compared.ratio)
    assert compared.ratio < MOST_RATIO


def test_an_uncalled_server_starts_history_and_lets_the_collector_run() -> None:
    """The collector is off while modules are imported, and leaves what they left behind alone."""
    told = run(_UNCALLED, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", "0")
    assert told["modules"] > MOST_MODULES
    assert told["frozen"] > 0
    assert "timers" in told["tasks"]


def test_the_sdk_is_imported_at_first_use() -> None:
    """Packages that were made without running them run when more than their modules of messages is wanted."""
    code = """
import json, sys
from whistlestop.server.cli.start.message_imports import import_messages_alone
import_messages_alone()
import temporalio.api.common.v1.message_pb2 as messages
before = "temporalio.service" in sys.modules
from temporalio.api.common.v1 import Payload
import temporalio
version = temporalio.__name__, hasattr(temporalio, "service")
print(json.dumps([before, Payload is messages.Payload, version]))
"""
    before, same, _ = run(code)
    assert not before
    assert same
