"""Ports for servers of tests."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress

# Ports to choose from: by default those that no system gives to outgoing connections, of which one could take a port
# between its choice and the start of its server.
_PORTS = os.environ.get("WHISTLESTOP_TEST_PORTS", "10000-31999")


def free_port() -> int:
    """A loopback port that is free now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """That many loopback ports that are free now."""
    first, last = (int(number) for number in _PORTS.split("-"))
    found: list[int] = []
    # In any order: two that are asked for before either is taken are to differ.
    for port in random.sample(range(first, last + 1), last + 1 - first):
        with socket.socket() as candidate, suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports in {_PORTS}")
