"""What peers without a credential cost the gRPC endpoint, in bytes kept, CPU time and time for others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.api.test_auth import SECRETS
from tests.hostile.h2_attacks import ATTACKS, INFO, LIST, REFLECT, body, greet, head
from tests.hostile.harness import MIB, Attacker, Cost, Victim
from tests.net.grpc.peer import message
from tests.patience import PATIENCE_S
from whistlestop.net.grpc import frames

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

MOST_PEAK = 24 * MIB
"""Of memory, for all that the budget lets strangers have, and what Python needs meanwhile."""
LONGEST_TURN_S = 0.010
"""Twice what we aim at, and what they take on a machine that does nothing else."""
MOST_TRIES = 4
"""A busy machine may take a turn's CPU time for its own."""
MOST_CPU_PER_MIB_S = 0.35
"""A frame that brings nothing has nine bytes or more; one that cost what a call costs would take ten times that."""
BESIDES_S = 1.0
"""CPU for hundreds of connections, whose number counts and not their bytes."""


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    victim = Victim.start()
    try:
        for path in (LIST, INFO, REFLECT):  # what is imported at the first request
            ask(victim, path)
        yield victim
    finally:
        victim.stop()


def ask(victim: Victim, path: str = LIST) -> bytes:
    """What a caller with a key is answered on a connection of its own, beside what goes on."""
    with Attacker(victim.ports["grpc"], Cost("a neighbour")) as neighbour:
        return _call(neighbour, greet(neighbour, reads=False), 1, path)


def _call(caller: Attacker, connection: socket.socket, stream: int, path: str = LIST) -> bytes:
    start = head(stream, path, authorization=f"Bearer {SECRETS['reader']}")
    caller.send(connection, start + body(stream, message(b""), end=True))
    return _until_end(connection)


def _until_end(connection: socket.socket) -> bytes:
    connection.settimeout(PATIENCE_S)
    data = b""
    while part := connection.recv(65_536):
        data += part
        if (at := data.find(b"grpc-status")) >= 0:
            return data[at : at + 13]
    raise AssertionError("no answer")


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_little(victim: Victim, name: str, record_property: Callable[[str, object], None]) -> None:
    """Others are served while it goes on; it ends without a trace."""
    for _ in range(MOST_TRIES):
        with victim.watched(name) as cost, Attacker(victim.ports["grpc"], cost) as attacker:
            ATTACKS[name](attacker)
            assert ask(victim) == b"grpc-status\x010"
        if cost.longest_s < LONGEST_TURN_S:
            break
    record_property("row", cost.row())
    print(cost.row())
    assert cost.peak < MOST_PEAK
    assert cost.longest_s < LONGEST_TURN_S, cost.longest
    assert cost.cpu_s < BESIDES_S + cost.sent / MIB * MOST_CPU_PER_MIB_S


@pytest.mark.parametrize(("port", "greeting"), [("grpc", frames.PREFACE + frames.settings(())), ("http", b"")])
def test_silent_connections_exclude_no_other_client(port: str, greeting: bytes) -> None:
    """With few descriptors: those of peers who have shown no credential are closed for others."""
    victim = Victim.start("256")
    try:
        with Attacker(victim.ports["grpc"], Cost("friends")) as friends:
            known = friends.connect()
            friends.send(known, frames.PREFACE + frames.settings(()))
            with Attacker(victim.ports[port], Cost("silence")) as attacker:
                assert _call(friends, known, 1) == b"grpc-status\x010"
                for _ in range(400):
                    attacker.send(attacker.connect(), greeting)
                assert ask(victim) == b"grpc-status\x010"
                assert _call(friends, known, 3) == b"grpc-status\x010"
    finally:
        victim.stop()


def test_attacks_are_many_and_named() -> None:
    from tests.hostile.http_attacks import ATTACKS as OF_HTTP

    assert len(ATTACKS) + len(OF_HTTP) >= 25
    assert sum("CVE" in name for name in ATTACKS) >= 15


def test_a_neighbour_is_answered_by_frames_of_ours(victim: Victim) -> None:
    """What the tests take for an answer is one."""
    assert frames.PREFACE.startswith(b"PRI")
    with Attacker(victim.ports["grpc"], Cost("a stranger")) as stranger:
        connection = greet(stranger, reads=False)
        stranger.send(connection, head(1, LIST))
        assert _until_end(connection) == b"grpc-status\x017"
