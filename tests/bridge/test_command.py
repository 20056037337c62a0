"""`whistlestop bridge`, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.client import Client

from tests.patience import PATIENCE_S
from whistlestop.bridge import BridgeConfig
from whistlestop.bridge.counters import PROBE, Counters
from whistlestop.server.cli.bridge import _listen_address, _notification_queue
from whistlestop.server.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = [sys.executable, "-m", "whistlestop.server", "bridge"]


@pytest.mark.sdk
async def test_the_command_prints_its_address_serves_and_prints_its_counters(start_dev: Callable[..., Any]) -> None:
    target = f"http://127.0.0.1:{start_dev().port('HTTP')}"
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--target", target, "--listen", "127.0.0.1:0",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        said = ""
        while "Target:" not in said:
            said += (await process.stdout.readline()).decode()
        address = said.partition("gRPC:")[2].split()[0]
        client = await Client.connect(address)
        assert (await client.count_workflows()).count == 0
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
    assert process.returncode == 0
    assert b"bridge calls in all: probes=0 polls=0 waits=0 heartbeats=0 calls=2 failed=0" in log


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--target", "ftp://x"], "not an http(s) URL"),
        (["--target", "http://x", "--listen", "nowhere"], "not host:port"),
        (["--target", "http://x", "--listen", "0.0.0.0:0"], "give --allow-anonymous"),
        (["--target", "http://x", "--listen", ":0"], "names no address"),
        (["--target", "https://x", "--tls-cert", "x.pem"], "mTLS needs a certificate and its key"),
    ],
)
def test_errors_of_configuration_are_reported_in_one_line(arguments: list[str], complaint: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode in {1, 2}
    assert done.stderr.startswith("Error: ")
    assert complaint in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "[::]", "[::ffff:0.0.0.0]"])
def test_a_bridge_does_not_listen_on_public_addresses_by_default(host: str) -> None:
    with pytest.raises(CommandError, match="--allow-anonymous"):
        _listen_address(f"{host}:7233", allow_anonymous=False)
    assert _listen_address(f"{host}:7233", allow_anonymous=True).port == 7233


@pytest.mark.parametrize("text", ["127.0.0.1:7233", "127.8.8.8:7233", "localhost:7233", "[::1]:7233", "7233"])
def test_loopback_needs_no_flag(text: str) -> None:
    assert _listen_address(text, allow_anonymous=False).is_loopback


def test_a_bridge_needs_no_grpcio_and_imports_nothing_heavy() -> None:
    """A worker function carries it in its bundle and starts with it. (Temporal's API imports grpcio where it is.)"""
    code = "import sys, json; sys.modules['grpc'] = None; import whistlestop.bridge; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    unwanted = {
        "grpc._cython.cygrpc",
        "botocore",
        "boto3",
        "httpx",
        "uvicorn",
        "pydantic",
        "whistlestop.frontend",
        "temporalio.client",
    }
    assert unwanted.intersection(json.loads(done.stdout)) == set()


def test_the_old_name_of_the_notification_queue_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert _notification_queue("auto", "") == "auto"
    assert caplog.records == []
    assert _notification_queue("", "https://sqs/q") == "https://sqs/q"
    assert _notification_queue("auto", "https://sqs/q") == "auto"
    assert [record.message.split()[0] for record in caplog.records] == ["--wake-queue"] * 2


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("--notification-queue", "mine"), {}),
        (("--wake-queue", "mine"), {}),
        ((), {"WHISTLESTOP_NOTIFICATION_QUEUE": "mine"}),
        ((), {"WHISTLESTOP_WAKE_QUEUE": "mine"}),
    ],
)
def test_the_notification_queue_is_given_by_either_name(
    arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [*COMMAND, "--target", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, "the notification queue must be `auto` or the URL" in done.stderr) == (2, True)
    is_old = "--wake-queue" in arguments or "WHISTLESTOP_WAKE_QUEUE" in environment
    assert ("is called --notification-queue" in done.stderr) == is_old


def test_old_names_in_python_are_taken_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="notification_queue"):
        config = BridgeConfig("http://x", wake_queue="auto")
    assert config.notification_queue == "auto"
    counters = Counters()
    counters.calls[PROBE] += 2
    with pytest.warns(DeprecationWarning, match="probe"):
        assert counters.calls["look"] == 2
    assert counters.copy().calls[PROBE] == 2
