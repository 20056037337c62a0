"""Starting with less than all that is installed."""

from __future__ import annotations

import sys


def leave_out_grpcio() -> None:
    """Temporal's API modules import grpcio where they find it, for stubs that a server does not use: 9 MB less."""
    if "grpc" not in sys.modules:
        sys.modules["grpc"] = None  # type: ignore[assignment]  # Python's way to say that a module is not to be had
