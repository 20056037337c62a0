"""Accept connections within the process's budget, before TLS and before any protocol sees them.

asyncio's own servers accept without a limit, tell a protocol of a TLS connection only after its handshake, and pause
for a second when descriptors run out. Here each connection has an account as soon as it is accepted; when descriptors
run out, an unauthenticated connection is closed to make room.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from whistlestop.net.budget import Account, Bounds, Budget

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    Make = Callable[[Account], asyncio.BaseProtocol]

logger = logging.getLogger(__name__)

BACKLOG: Final = 1_024
TLS_HANDSHAKE_S: Final = 10.0
_MAX_AT_ONCE: Final = 8
"""Connections accepted in one turn of the event loop."""
_RETRY_S: Final = 0.1
_WARN_EVERY_S: Final = 60.0
_SWEEP_S: Final = 1.0
_MAX_DESCRIPTORS: Final = 1 << 20
_NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def raise_descriptor_limit() -> int:
    """Raise the process's limit of file descriptors as far as the system allows; return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    with suppress(ValueError, OSError):  # the system may have another bound; then the old limit stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def bounds_of_process(limit: int) -> Bounds:
    """Return the bounds for a process with `limit` descriptors, some of which are kept for files and the database."""
    connections = max(16, limit - max(64, min(1_024, limit // 8)))
    bounds = Bounds()
    return Bounds(all_connections=min(bounds.all_connections, connections))


def listening_socket(family: int, address: tuple[Any, ...]) -> socket.socket:
    """Return a socket that listens on an address, as `getaddrinfo` gives it. Raises OSError.

    SO_REUSEPORT is never set, since two servers would then share a port without noticing.
    """
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


class _Handshake:
    """A connection that has no protocol yet."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None

    def activity(self) -> int:
        return 0

    def is_busy(self) -> bool:
        return False

    def close_idle(self) -> None:
        self.abort()

    def abort(self) -> None:
        if self.task is not None:
            self.task.cancel()


class Listener:
    """Accepts connections from a listening socket.

    `make` returns the protocol of a connection, given its account. The protocol sets `account.peer` when it is
    connected, and calls `account.close()` when it loses its connection.
    """

    def __init__(self, listener: socket.socket, budget: Budget, make: Make, tls: ssl.SSLContext | None = None) -> None:
        self._listener = listener
        self._budget = budget
        self._make = make
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_open = True
        self._warn_from = 0.0
        listener.setblocking(False)
        self._listen()
        self._sweep_later()

    @property
    def port(self) -> int:
        """Return the bound port."""
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Stop accepting connections. Existing ones stay open."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._listener)
        self._listener.close()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._handshakes:
            task.cancel()

    def _listen(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._listener, self._accept)

    def _sweep_later(self) -> None:
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        # Every listener sweeps the shared budget; sweeping more often than needed does no harm.
        try:
            self._budget.sweep()
        except Exception:
            logger.exception("sweeping connections failed")
        self._sweep_later()

    def _accept(self) -> None:
        for _ in range(_MAX_AT_ONCE):
            try:
                connection, peer_name = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTOR:
                    raise
                self._out_of_descriptors(error)
                return
            self._begin(connection, peer_name)

    def _out_of_descriptors(self, error: OSError) -> None:
        if self._budget.make_room():
            return  # the descriptor is free in the next turn of the loop, which calls this again
        now = self._loop.time()
        if now >= self._warn_from:
            self._warn_from = now + _WARN_EVERY_S
            logger.warning("can't accept a connection: %s; all open connections are in use", error.strerror)
        self._loop.remove_reader(self._listener)
        self._loop.call_later(_RETRY_S, self._listen)

    def _begin(self, connection: socket.socket, peer_name: object) -> None:
        handshake = _Handshake()
        account = self._budget.connect(peer_name, handshake)
        if account is None:
            connection.close()
            return
        connection.setblocking(False)
        handshake.task = task = self._loop.create_task(self._connect(connection, account))
        self._handshakes.add(task)
        task.add_done_callback(partial(self._connected, connection, account))

    async def _connect(self, connection: socket.socket, account: Account) -> None:
        with suppress(OSError):  # the peer left, or does not speak TLS (ssl.SSLError is an OSError)
            await self._loop.connect_accepted_socket(
                lambda: self._make(account), connection, ssl=self._tls,
                ssl_handshake_timeout=TLS_HANDSHAKE_S if self._tls is not None else None,
            )  # fmt: skip

    def _connected(self, connection: socket.socket, account: Account, task: asyncio.Task[None]) -> None:
        self._handshakes.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("accepting a connection failed", exc_info=task.exception())
        if isinstance(account.peer, _Handshake):  # no protocol took over
            account.close()
            connection.close()
