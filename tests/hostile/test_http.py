"""What peers without a credential cost an HTTP endpoint, in bytes kept, CPU time and time for others."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.api.test_auth import SECRETS
from tests.hostile.harness import MIB, Attacker, Cost, Victim
from tests.hostile.http_attacks import ATTACKS, INFO, JSON, LIST, head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_PEAK = 24 * MIB
"""Of memory, for all that the budget lets strangers have, and what Python needs meanwhile."""
LONGEST_TURN_S = 0.010
"""Twice what we aim at, and what they take on a machine that does nothing else."""
MOST_CPU_PER_MIB_S = 0.25
"""More than any of them needs; a flood that cost what requests cost would take ten times that."""
BESIDES_S = 1.0
"""CPU for hundreds of connections, whose number counts and not their bytes."""


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    victim = Victim.start()
    try:
        ask(victim)
        with Attacker(victim.ports["http"], Cost("what is imported at the first request")) as attacker:
            for path in ("/no/such/path", "/api/v1/namespaces/default", "/nexus/callback", INFO):
                connection = attacker.connect()
                attacker.send(connection, head(path, JSON, b"content-length: 2\r\n") + b"{}")
                attacker.read(connection)
        yield victim
    finally:
        victim.stop()


def ask(victim: Victim) -> int:
    """What a caller with a key is answered."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{victim.ports['http']}{LIST}", b'{"namespace":"default"}',
        {"content-type": "application/json", "authorization": f"Bearer {SECRETS['reader']}"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as answer:
        json.loads(answer.read())
        return int(answer.status)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_little(victim: Victim, name: str, record_property: Callable[[str, object], None]) -> None:
    """Others are served while it goes on; it ends without a trace."""
    with victim.watched(name) as cost, Attacker(victim.ports["http"], cost) as attacker:
        ATTACKS[name](attacker)
        assert ask(victim) == 200
    record_property("row", cost.row())
    print(cost.row())
    assert cost.peak < MOST_PEAK
    assert cost.longest_s < LONGEST_TURN_S, cost.longest
    assert cost.cpu_s < BESIDES_S + cost.sent / MIB * MOST_CPU_PER_MIB_S


@pytest.mark.parametrize("port", ["http", "metrics"])
@pytest.mark.parametrize(
    ("version", "lines"),
    [
        ("1.1", b"host: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n"),
        ("1.1", b"host: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n"),
        ("1.1", b"host: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n"),
        ("1.1", b"host: a\r\ncontent-length: +5\r\n"),
        ("1.1", b"host: a\r\ncontent-length: 5, 5\r\n"),
        ("1.1", b"host: a\r\ntransfer-encoding: chunked, identity\r\n"),
        ("1.1", b"host: a\r\ntransfer-encoding: gzip, chunked\r\n"),
        ("1.1", b"host: a\r\ntransfer-encoding: xchunked\r\n"),
        ("1.1", b"host: a\r\ntransfer-encoding:\x0bchunked\r\n"),
        ("1.1", b"host: a\r\ntransfer-encoding : chunked\r\n"),
        ("1.0", b"host: a\r\ntransfer-encoding: chunked\r\n"),
        ("1.1", b"host: a\r\nhost: b\r\n"),
        ("1.1", b"x: y\r\n"),
        ("1.1", b"host: a\nx: y\r\n"),
        ("1.1", b"host: a\r\nx: y\r\n folded\r\n"),
        ("1.1", b"host: a\r\nx\x00: y\r\n"),
    ],
)
def test_no_request_is_hidden_in_another(victim: Victim, port: str, version: str, lines: bytes) -> None:
    """Request smuggling (CVE-2005-2088 and on): what a proxy may read differently is refused, and nothing behind it read."""
    with Attacker(victim.ports[port], Cost("smuggling")) as attacker:
        connection = attacker.connect()
        hidden = b"0\r\n\r\n" + head("/healthz", method="GET")
        attacker.send(connection, f"POST /metrics HTTP/{version}\r\n".encode() + lines + b"\r\n" + hidden)
        answer = attacker.read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_trailers_are_no_headers(victim: Victim) -> None:
    """A credential behind the body makes nobody known."""
    with Attacker(victim.ports["http"], Cost("trailers")) as attacker:
        connection = attacker.connect()
        trailer = f"authorization: Bearer {SECRETS['reader']}\r\nhost: evil\r\n\r\n".encode()
        attacker.send(connection, head(LIST, JSON, b"transfer-encoding: chunked\r\n") + b"2\r\n{}\r\n0\r\n" + trailer)
        answer = attacker.read(connection)
    assert answer.startswith(b"HTTP/1.1 403 ")
