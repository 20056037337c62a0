"""X-Ray subsegments: the time an invocation spent on storage and on calls to other functions.

They are off unless the setting `tracing` is `Active` and Lambda samples the invocation. They are sent as UDP
datagrams to the X-Ray daemon beside the function. X-Ray's SDK, on which Powertools' Tracer is built, is not used: it
keeps the open subsegment per thread, while here many coroutines share one thread. Each subsegment is a direct child
of the function's segment.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from typing import TYPE_CHECKING, Any

from whistlestop.common.clock import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.rpcs.rpc import Channel, Rpc
    from whistlestop.functions.settings import FunctionSettings

_HEADER = b'{"format":"json","version":1}\n'


class Traces:
    """Sends the subsegments of one instance to the daemon."""

    def __init__(self, clock: Clock, host: str, port: int) -> None:
        self._clock = clock
        self._daemon = (host, port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    @contextlib.contextmanager
    def subsegment(self, name: str, **fields: Any) -> Iterator[None]:
        """Measure the block as a subsegment of the current invocation. Does nothing when that is not sampled."""
        place = _place(os.environ.get("_X_AMZN_TRACE_ID", ""))
        if place is None:
            yield
            return
        began_ns, since_ns = self._clock.now_ns(), self._clock.steady_ns()
        fault = True
        try:
            yield
            fault = False
        finally:
            ended_ns = began_ns + self._clock.steady_ns() - since_ns
            self._send({
                "name": name[:200], "id": secrets.token_hex(8), "trace_id": place[0], "parent_id": place[1],
                "type": "subsegment", "start_time": began_ns / SECOND_NS, "end_time": ended_ns / SECOND_NS,
                **({"fault": True} if fault else {}), **fields,
            })  # fmt: skip

    def client(self, client: Channel, name: str) -> Channel:
        """Return a client that records a subsegment for each call of `client`."""
        return _Traced(client, name, self)

    def close(self) -> None:
        self._socket.close()

    def _send(self, document: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # losing a trace must not fail the request
            self._socket.sendto(_HEADER + json.dumps(document).encode(), self._daemon)


class _Traced:
    def __init__(self, client: Channel, name: str, traces: Traces) -> None:
        self._client = client
        self._name = name
        self._traces = traces

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        with self._traces.subsegment(self._name, namespace="remote", annotations={"method": rpc.method}):
            return await self._client.call(rpc, request, context)


def traces_of(clock: Clock, settings: FunctionSettings, environ: Mapping[str, str] = os.environ) -> Traces | None:
    """Return the sender of subsegments; None when tracing is off or Lambda names no daemon."""
    address = environ.get("AWS_XRAY_DAEMON_ADDRESS", "")
    if settings.tracing != "Active" or not address:
        return None
    # "host:port", or "tcp:host:port udp:host:port".
    parts = [part.removeprefix("udp:") for part in address.split() if not part.startswith("tcp:")]
    host, _, port = parts[0].rpartition(":")
    return Traces(clock, host, int(port))


def _place(header: str) -> tuple[str, str] | None:
    """Parse `Root=…;Parent=…;Sampled=1` into the trace and segment ids; None when it is not sampled."""
    said = dict(part.split("=", 1) for part in header.split(";") if "=" in part)
    if said.get("Sampled") != "1" or "Root" not in said or "Parent" not in said:
        return None
    return said["Root"], said["Parent"]
