"""Attacks on HTTP/1.1 endpoints by peers without a credential. Each is named after what is known of it elsewhere."""

from __future__ import annotations

import gzip
import json
import random
from typing import TYPE_CHECKING

from tests.hostile.harness import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hostile.harness import Attacker

SERVICE = "/temporal.api.workflowservice.v1.WorkflowService"
LIST = f"{SERVICE}/ListWorkflowExecutions"
INFO = f"{SERVICE}/GetSystemInfo"
"""The one method that takes no credential."""
JSON = b"content-type: application/json\r\n"
ATTACKS: dict[str, Callable[[Attacker], None]] = {}
_MOST = 8 * MIB
"""Sent by one attack."""


def attack(name: str) -> Callable[[Callable[[Attacker], None]], Callable[[Attacker], None]]:
    def named(function: Callable[[Attacker], None]) -> Callable[[Attacker], None]:
        ATTACKS[name] = function
        return function

    return named


def head(path: str, *lines: bytes, method: str = "POST") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n".encode() + b"".join(lines) + b"\r\n"


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


def flood(attacker: Attacker, start: bytes, piece: bytes, most: int = _MOST) -> None:
    """One connection that goes on until it is cut off."""
    connection = attacker.connect()
    left = most - len(start)
    pieces = piece * max(1, 65_536 // len(piece))
    go_on = attacker.send(connection, start)
    while go_on and left > 0:
        go_on = attacker.send(connection, pieces)
        left -= len(pieces)


# -- slow ones: here many at once; how they end is tested with a clock in tests/net/test_http_protocol.py --


@attack("Slowloris (2009): heads that do not end")
def slow_heads(attacker: Attacker) -> None:
    for _ in range(700):
        attacker.send(attacker.connect(), b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 1_000)


@attack("R-U-Dead-Yet (2010): bodies that do not end")
def slow_bodies(attacker: Attacker) -> None:
    start = head(LIST, JSON, b"content-length: 1000000\r\n")
    for _ in range(700):
        attacker.send(attacker.connect(), start + b"{")


@attack("slow bodies of the method for everybody")
def slow_open_bodies(attacker: Attacker) -> None:
    start = head(INFO, JSON, b"content-length: 16000\r\n")
    for _ in range(700):
        attacker.send(attacker.connect(), start + b" " * 15_000)


@attack("connections that say nothing")
def silence(attacker: Attacker) -> None:
    for _ in range(700):
        attacker.connect()


@attack("connect, ask, leave")
def churn(attacker: Attacker) -> None:
    for _ in range(500):
        connection = attacker.connect()
        attacker.send(connection, head("/healthz", method="GET"))
        connection.close()


# -- heads --


@attack("a header without end")
def endless_header(attacker: Attacker) -> None:
    flood(attacker, b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ", b"y" * 1024)


@attack("headers without number")
def endless_headers(attacker: Attacker) -> None:
    flood(attacker, b"GET / HTTP/1.1\r\nhost: localhost\r\n", b"x: y\r\n")


@attack("a header folded without end (CVE-2011-3192 and others of long headers)")
def many_ranges(attacker: Attacker) -> None:
    flood(attacker, b"GET / HTTP/1.1\r\nhost: localhost\r\nrange: bytes=0-", b",5-1,6-2")


@attack("a path without end")
def endless_path(attacker: Attacker) -> None:
    flood(attacker, b"GET /", b"a/")


@attack("empty lines before a request")
def empty_lines(attacker: Attacker) -> None:
    flood(attacker, b"\r\n", b"\r\n")


@attack("white space in a header's value")
def white_space(attacker: Attacker) -> None:
    flood(attacker, b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ", b" \t")


@attack("rubbish, TLS and HTTP/2 on an HTTP/1.1 port")
def other_protocols(attacker: Attacker) -> None:
    rubbish = random.Random(1).randbytes(16_384)
    for start in (rubbish, b"\x16\x03\x01\x02\x00" + rubbish, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rubbish):
        for _ in range(20):
            attacker.send(attacker.connect(), start)


# -- bodies --


@attack("bodies for paths that do not exist")
def unknown_paths(attacker: Attacker) -> None:
    for _ in range(4):
        flood(attacker, head("/no/such/path", b"content-length: 4194304\r\n"), bytes(65_536), _MOST // 4)


@attack("bodies of callers without a credential")
def unknown_callers(attacker: Attacker) -> None:
    for path in (LIST, "/api/v1/namespaces/default/workflows/w", "/nexus/callback", "/nexus/endpoints/e/services/s/o"):
        flood(attacker, head(path, JSON, b"content-length: 4194304\r\n"), b" " * 65_536, _MOST // 4)


@attack("gzip bomb (CVE-2003-0201 and on): of a caller without a credential")
def bomb(attacker: Attacker) -> None:
    zipped = gzip.compress(bytes(128 * MIB), 9)
    for _ in range(8):
        connection = attacker.connect()
        lines = b"content-encoding: gzip\r\ncontent-length: %d\r\n" % len(zipped)
        attacker.send(connection, head(LIST, JSON, lines) + zipped)
        attacker.read(connection)


@attack("gzip bomb to the method for everybody")
def open_bomb(attacker: Attacker) -> None:
    zipped = gzip.compress(bytes(12 * MIB), 9)
    assert len(zipped) < 16_384
    for _ in range(20):
        connection = attacker.connect()
        lines = b"content-encoding: gzip\r\ncontent-length: %d\r\n" % len(zipped)
        attacker.send(connection, head(INFO, JSON, lines) + zipped)
        assert b" 429 " in attacker.read(connection)


@attack("JSON nested deeply (CVE-2020-7660 and others)")
def nested_json(attacker: Attacker) -> None:
    for body in (b"[" * 16_000, b'{"a":' * 3_000, b'{"a":[' * 2_500):
        for _ in range(10):
            connection = attacker.connect()
            attacker.send(connection, head(INFO, JSON, b"content-length: %d\r\n" % len(body)) + body)
            answer = attacker.read(connection)
            assert b" 400 " in answer, answer[:200]


@attack("JSON with huge numbers (CVE-2020-10735)")
def huge_numbers(attacker: Attacker) -> None:
    for body in (b'{"a":%b}' % (b"9" * 16_000), b'{"a":1e%b}' % (b"9" * 16_000), b'{"a":0.%b}' % (b"9" * 16_000)):
        for _ in range(10):
            connection = attacker.connect()
            attacker.send(connection, head(INFO, JSON, b"content-length: %d\r\n" % len(body)) + body)
            assert attacker.read(connection).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 200 "))


@attack("JSON with many names that hash alike (28C3, 2011) and duplicates")
def many_names(attacker: Attacker) -> None:
    body = json.dumps({f"k{number}": 0 for number in range(1_400)}).encode()
    body = body[:-1] + b',"k0":0' * 200 + b"}"
    for _ in range(20):
        connection = attacker.connect()
        attacker.send(connection, head(INFO, JSON, b"content-length: %d\r\n" % len(body)) + body)
        attacker.read(connection)


# -- chunks --


@attack("chunk extensions (CVE-2023-39326)")
def chunk_extensions(attacker: Attacker) -> None:
    start = head(INFO, JSON, b"transfer-encoding: chunked\r\n")
    flood(attacker, start, chunk(b"x", b";" + b"a" * 4_000))
    flood(attacker, start + b"1;", b"a" * 1_024)


@attack("chunks of one byte")
def small_chunks(attacker: Attacker) -> None:
    flood(attacker, head(INFO, JSON, b"transfer-encoding: chunked\r\n"), chunk(b" "))


@attack("trailers without end")
def trailers(attacker: Attacker) -> None:
    flood(attacker, head(INFO, JSON, b"transfer-encoding: chunked\r\n") + b"0\r\n", b"x: y\r\n")
    flood(attacker, head(INFO, JSON, b"transfer-encoding: chunked\r\n") + b"0\r\nx: ", b"y" * 1_024)


@attack("a chunk's size without end")
def chunk_size(attacker: Attacker) -> None:
    flood(attacker, head(INFO, JSON, b"transfer-encoding: chunked\r\n"), b"0" * 1_024)


# -- many requests --


@attack("pipelined requests whose answers nobody reads")
def pipeline(attacker: Attacker) -> None:
    flood(attacker, b"", head("/healthz", method="GET"), 2 * MIB)


@attack("answers that nobody reads")
def unread_answers(attacker: Attacker) -> None:
    for _ in range(100):
        connection = attacker.connect()
        for _ in range(10):
            attacker.send(connection, head("/api/v1/system-info", method="GET"))


@attack("Expect: 100-continue without a body")
def expectations(attacker: Attacker) -> None:
    start = head(INFO, JSON, b"expect: 100-continue\r\ncontent-length: 100\r\n")
    for _ in range(200):
        attacker.send(attacker.connect(), start)


@attack("upgrades to WebSocket and HTTP/2, and what follows them")
def upgrades(attacker: Attacker) -> None:
    for protocol in (b"websocket", b"h2c", b"x"):
        lines = b"connection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABk\r\nupgrade: %b\r\n" % protocol
        for _ in range(10):
            connection = attacker.connect()
            attacker.send(connection, head("/healthz", lines, method="GET") + b"\x81\xff" * 8_000)
            attacker.read(connection)
