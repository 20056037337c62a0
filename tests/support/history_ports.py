"""Let a history service that a test has built stand on other ports."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whistlestop.history.service import History


def replace_ports(history: History, **ports: Any) -> None:
    """Replace these ports of the service, by name; its background processors keep their own."""
    history.ports = replace(history.ports, **ports)
