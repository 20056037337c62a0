"""Where servers listen: what options mean, and what the kernel shows of each process."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from tests.patience import PATIENCE_S
from tests.server.conftest import COMMAND, Running
from whistlestop.net.grpc.server import GrpcServer
from whistlestop.net.listen_address import ListenAddress, bind_ip, is_loopback, parse_listen

LOOPBACK = "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20385", (LOOPBACK, 20385)),
        ("0", (LOOPBACK, 0)),
        ("127.0.0.1:7233", (LOOPBACK, 7233)),
        ("localhost:7233", (LOOPBACK, 7233)),
        ("127.8.8.8:1", ("127.8.8.8", 1)),
        ("[::1]:7233", ("::1", 7233)),
        ("0.0.0.0:7233", ("0.0.0.0", 7233)),
        ("[::]:7233", ("::", 7233)),
        ("192.0.2.7:65535", ("192.0.2.7", 65535)),
    ],
)
def test_meaning_of_an_address(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == ListenAddress(*expected)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":7233", "*:7233", "[]:7233", "[*]:7233", "nowhere", "localhost", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x",
        "127.0.0.1:65536", "65536", "127.0.0.1:-1", "127.0.0.1:+1", "127.0.0.1:7_233", "127.0.0.1: 7233", "127.0.0.1:\u0667",
        "::1:7233", ":::7233", "[::1]7233", "0:7233", "127.1:7233", "2130706433:7233", "0x7f000001:7233", "1:2:3",
        "no-such-host.invalid:7233", "a b:7233", "http://127.0.0.1:7233",
    ],
)  # fmt: skip
def test_invalid_addresses(text: str) -> None:
    """One line, and never a socket on every address instead."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse_listen(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["", "*", "[]", "0", "7233", "0x0", "127.1", "::1]", "[127.0.0.1"])
def test_invalid_hosts(host: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        bind_ip(host)


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("::ffff:0.0.0.0", False),
        ("10.1.2.3", False),
    ],
)
def test_loopback(ip: str, expected: bool) -> None:
    assert is_loopback(ip) is expected


async def test_a_grpc_server_without_a_host_listens_nowhere() -> None:
    """To a socket, an empty host is every address."""
    service: Any = None
    with pytest.raises(OSError, match="no address"):
        await GrpcServer(service).start("", 0)


# ---- as the kernel shows it ------------------------------------------------------------------------------------------


def listening(process_id: int) -> set[str]:
    """The addresses on which a process listens, as `ss -ltn` shows them."""
    found = psutil.Process(process_id).net_connections(kind="tcp")
    return {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}


def _bridge(*flags: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "whistlestop.server",
        "bridge",
        "--target",
        "http://127.0.0.1:1",
        "--log-every",
        "0",
        *flags,
    ]


SERVERS = {
    "start-dev": ([*COMMAND, "server", "start-dev", "--port", "0"], {LOOPBACK}),
    "start-dev, IPv6": ([*COMMAND, "server", "start-dev", "--port", "0", "--ip", "::1"], {"::1"}),
    "start, all doors": (
        [*COMMAND, "server", "start", "--db-filename", "1.db", "--port", "0", "--http-port", "0", "--metrics-port", "0",
         "--internal-port", "0"],
        {LOOPBACK},
    ),
    "start, open to all": (
        [*COMMAND, "server", "start", "--db-filename", "2.db", "--port", "0", "--metrics-port", "0", "--ip", "0.0.0.0",
         "--allow-anonymous"],
        {"0.0.0.0", LOOPBACK},
    ),
    "start, metrics open to all": (
        [*COMMAND, "server", "start", "--db-filename", "m.db", "--port", "0", "--metrics-port", "0", "--metrics-ip", "0.0.0.0"],
        {"0.0.0.0", LOOPBACK},
    ),
    "start, an endpoint of its own inside": (
        [*COMMAND, "server", "start", "--db-filename", "3.db", "--port", "0", "--internal-port", "0", "--internal-ip",
         "127.0.0.2"],
        {LOOPBACK, "127.0.0.2"},
    ),
    "test server": ([sys.executable, "-m", "whistlestop.server.test_server", "0"], {LOOPBACK}),
    "bridge": (_bridge("--listen", "0"), {LOOPBACK}),
    "bridge, open to all": (_bridge("--listen", "0.0.0.0:0", "--allow-anonymous"), {"0.0.0.0"}),
}  # fmt: skip
OPEN = {"start, open to all", "bridge, open to all", "start, metrics open to all"}


def test_bound_addresses_of_every_command(tmp_path: Any) -> None:
    """Every command that serves: loopback unless it was told otherwise, and then it says who may call."""
    running: dict[str, Running] = {}
    try:
        for what, (command, _) in SERVERS.items():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
            )
            running[what] = Running(process)
            running[what].watch()
        for what, one in running.items():
            deadline = time.monotonic() + PATIENCE_S
            while not any(line.startswith(("State:", "Target:")) for line in one.stdout):
                assert one.process.poll() is None, (what, one.stderr)
                assert time.monotonic() < deadline, what
                time.sleep(0.05)
            said = "\n".join(one.stdout)
            assert (what, listening(one.process.pid)) == (what, SERVERS[what][1])
            assert (what, "anybody who reaches this address" in said) == (what, what in OPEN)
    finally:
        for one in running.values():
            one.process.terminate()
        for one in running.values():
            one.end()
            for stream in (one.process.stdout, one.process.stderr):
                assert stream is not None
                stream.close()


REFUSED = {
    "start-dev on all": [*COMMAND, "server", "start-dev", "--port", "0", "--ip", "0.0.0.0"],
    "start on all, IPv6": [*COMMAND, "server", "start", "--db-filename", "4.db", "--port", "0", "--ip", "::"],
    "start without an address": [*COMMAND, "server", "start", "--db-filename", "5.db", "--port", "0", "--ip", ""],
    "start on a port for an address": [*COMMAND, "server", "start", "--db-filename", "6.db", "--ip", "7233"],
    "inside on all": [
        *COMMAND, "server", "start", "--db-filename", "7.db", "--port", "0", "--internal-port", "0", "--internal-ip", "0.0.0.0",
    ],
    "test server on all": [sys.executable, "-m", "whistlestop.server.test_server", "0", "--ip", "0.0.0.0"],
    "bridge on all": _bridge("--listen", "0.0.0.0:0"),
    "bridge, no host": _bridge("--listen", ":0"),
    "bridge, star": _bridge("--listen", "*:0"),
}  # fmt: skip


def test_unauthenticated_public_addresses_are_refused_by_default(tmp_path: Any) -> None:
    started = {
        what: subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        for what, command in REFUSED.items()
    }
    for what, process in started.items():
        out, err = process.communicate(timeout=PATIENCE_S)
        assert (what, process.returncode in {1, 2}, len(err.strip().splitlines())) == (what, True, 1), (out, err)
