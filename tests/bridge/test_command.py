"""`whistlestop bridge`, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.client import Client

from tests.patience import PATIENCE_S
from whistlestop.server.cli.bridge import _listen_address
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
        (["--target", "http://x", "--listen", "0.0.0.0:0"], "say --allow-anonymous"),
        (["--target", "http://x", "--listen", ":0"], "names no address"),
        (["--target", "https://x", "--tls-cert", "x.pem"], "mTLS needs a certificate and its key"),
    ],
)
def test_errors_of_configuration_are_one_line(arguments: list[str], complaint: str) -> None:
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
