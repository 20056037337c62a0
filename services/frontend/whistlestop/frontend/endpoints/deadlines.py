"""Deadlines of HTTP requests: `Connect-Timeout-Ms`, or gRPC's `Grpc-Timeout`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.clock import MILLISECOND_NS
from whistlestop.common.errors import invalid_argument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.clock import Clock

_UNITS_NS = {"H": 3_600_000_000_000, "M": 60_000_000_000, "S": 1_000_000_000, "m": 1_000_000, "u": 1_000, "n": 1}
_MAX_DIGITS = 10
_MAX_GRPC_DIGITS = 8


def of_headers(headers: Mapping[str, str], clock: Clock, latest_ns: int | None = None) -> int | None:
    """Return the deadline (steady clock), limited by `latest_ns`; None without any. Raises ServiceError."""
    span_ns = _span_ns(headers)
    if span_ns is None:
        return latest_ns
    deadline_ns = clock.steady_ns() + span_ns
    return deadline_ns if latest_ns is None else min(deadline_ns, latest_ns)


def _span_ns(headers: Mapping[str, str]) -> int | None:
    connect = headers.get("connect-timeout-ms", "")
    if connect:
        if not (connect.isascii() and connect.isdecimal() and len(connect) <= _MAX_DIGITS):
            raise invalid_argument(f"protocol error: invalid timeout {connect}")
        return int(connect) * MILLISECOND_NS
    grpc = headers.get("grpc-timeout", "")
    if grpc:
        number, unit = grpc[:-1], grpc[-1]
        if not (number.isascii() and number.isdecimal() and len(number) <= _MAX_GRPC_DIGITS and unit in _UNITS_NS):
            raise invalid_argument(f"invalid grpc-timeout: {grpc}")
        return int(number) * _UNITS_NS[unit]
    return None
