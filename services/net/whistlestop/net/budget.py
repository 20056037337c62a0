"""Limits on what unauthenticated peers may use: one budget for all listeners of a process.

Each connection has an `Account`, whichever protocol it speaks; an account belongs to an `_Address`, and all addresses
belong to the process's `Budget`. At each of these three levels there is a limit for

    connections      that have not presented a valid credential yet
    requests         (streams) whose caller is not authenticated yet, or that need no authentication
    bytes            buffered for such requests
    CPU time         spent on connections without a credential

Unfinished requests also have a maximum age, and connections a maximum idle time.

When an address or the process reaches a limit, the oldest entry is dropped in favour of the new one: a connection or
request that has been unfinished for long is less likely to belong to a working client. The address that uses most
loses first, so that many clients behind one address cannot shut out the others. A request is refused only where a
single connection exceeds its own limit. IPv6 addresses are counted by /64, since a host commonly has a whole /64.

A connection becomes authenticated with its first request that carries a valid credential (where no credentials are
required: with its first request for an RPC that would need one). From then on it counts only towards the process's
file descriptors, and is closed only after a long idle time.

This module does no I/O and reads no clock of its own: `now` is passed in, and peers are closed through `Peer`.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Share:
    """What one connection, one address or the whole process may use at a time without a credential."""

    connections: int
    requests: int
    bytes: int
    cpu: float
    """Seconds of CPU time per second."""
    cpu_burst_s: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """All limits of a budget. Sizes are in bytes, times in seconds."""

    connection: Share = Share(1, 100, 1024 * 1024, 0.1, 0.1)
    address: Share = Share(512, 1_000, 4 * 1024 * 1024, 0.25, 0.5)
    process: Share = Share(2_048, 4_000, 16 * 1024 * 1024, 0.5, 1.0)
    all_connections: int = 65_536
    """Limit for all connections, authenticated or not: what the process has descriptors for."""
    request_s: float = 10.0
    """Maximum age of an unfinished request."""
    idle_s: float = 30.0
    """How long a connection without a credential may be idle."""
    authenticated_idle_s: float = 120.0
    """How long an authenticated connection may be idle: as with Temporal's frontend (keepAliveMaxConnectionIdle)."""
    free_cpu_s: float = 0.02
    """CPU time that a connection may use even when its address or the process has exhausted its share, so that a
    health check works during an attack from the same address."""
    longest_rest_s: float = 10.0
    """The longest pause in reading from a connection that has used up its CPU time."""


class Peer(Protocol):
    """A connection as the budget sees it."""

    def activity(self) -> int:
        """Return a number that changes whenever a request begins or makes progress."""
        ...

    def is_busy(self) -> bool:
        """Return whether a request is in progress, however long it takes (a long poll counts)."""
        ...

    def close_idle(self) -> None:
        """Close the connection gracefully, because it is idle."""
        ...

    def abort(self) -> None:
        """Close the connection at once, without notice."""
        ...


_DEBT_S = 0.5
_LITTLE_FREE = 0.1
_DEEP_DEBT_S = 5.0
_SHORT_REST_S = 0.2
"""An address or process that is more than _DEBT_S behind on CPU time gives its connections only the fraction
_LITTLE_FREE of their free CPU time. Behind an address that is more than _DEEP_DEBT_S behind, new connections
pause too, but briefly."""


def _nothing() -> None:
    return


class Bucket:
    """A token bucket that may go into debt; `spend` returns how long to wait until it is even again."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now

    def spend(self, amount: float, now: float) -> float:
        """Take `amount`; return the seconds until the debt is paid, 0 when there is none."""
        self._level = min(self._burst, self._level + (now - self._at) * self._rate) - amount
        self._at = now
        return -self._level / self._rate if self._level < 0 else 0.0


class Request:
    """A request (an HTTP/2 stream) that counts towards the budget until it is closed or its caller is authenticated."""

    __slots__ = ("_account", "_bytes", "_expire", "began", "is_open")

    def __init__(self, account: Account, began: float, expire: Callable[[], None]) -> None:
        self._account = account
        self._expire = expire
        self._bytes = 0
        self.began: float | None = began
        """When it began or last made progress; None once the request has been received completely."""
        self.is_open = True

    def count_bytes(self, size: int) -> bool:
        """Count `size` more bytes as buffered; return False, and count nothing, if the limit is reached."""
        if not self.is_open:
            return True
        if not self._account.reserve(size, self):
            return False
        self._bytes += size
        return True

    def release(self, size: int) -> None:
        """Return `size` bytes that are no longer buffered; at most those that are held."""
        size = min(size, self._bytes)
        self._bytes -= size
        self._account.reserve(-size, self)

    def finish(self) -> None:
        """Mark the request as received: it does not expire any more, but may still be dropped to make room."""
        self.began = None
        self._account.budget.requests.pop(self, None)

    def restart(self) -> None:
        """Restart the age of an unfinished request, because data arrived."""
        if self.is_open:
            self.began = self._account.budget.now()
            self._account.budget.requests[self] = None
            self._account.budget.requests.move_to_end(self)

    def spend_cpu(self, seconds: float) -> None:
        """Charge the connection for CPU time spent on the request elsewhere."""
        self._account.spend_cpu(seconds)

    def authenticate(self) -> None:
        """Stop counting the request and its connection, because the caller is authenticated."""
        self.close()
        self._account.authenticate()

    def close(self) -> None:
        """Stop counting the request, because it is over. Closing it again does nothing."""
        if self.is_open:
            self.is_open = False
            self._account.forget(self, self._bytes)
            self._bytes = 0
            # The callback refers back to this request; dropping it avoids a cycle for the garbage collector.
            self._expire = _nothing

    def expire(self) -> None:
        """End the request from the server's side."""
        end = self._expire
        try:
            end()
        finally:
            self.close()


class Account:
    """The budget's record of a connection."""

    __slots__ = (
        "_address", "_cpu", "_spent_s", "activity", "authenticated", "budget", "bytes", "is_open", "peer",
        "quiet_since", "requests",
    )  # fmt: skip

    def __init__(self, budget: Budget, address: _Address, peer: Peer) -> None:
        self.budget = budget
        self._address = address
        self.peer = peer
        now = budget.now()
        share = budget.bounds.connection
        self._cpu = Bucket(share.cpu, share.cpu_burst_s, now)
        self._spent_s = 0.0
        self.authenticated = False
        self.is_open = True
        self.requests: dict[Request, None] = {}
        self.bytes = 0
        self.activity = -1
        self.quiet_since = now

    def set_peer(self, peer: Peer) -> None:
        """Let the budget close the connection by its protocol from now on, rather than by the transport."""
        self.peer = peer

    def open_request(self, expire: Callable[[], None]) -> Request | None:
        """Count one more request; return None if the connection has too many, or is closed.

        `expire` must end the request. It may be called at any time until `close`, also from within `open_request` and
        `count_bytes` of other requests.
        """
        budget = self.budget
        if not self.is_open or len(self.requests) >= budget.bounds.connection.requests:
            return None
        address = self._address
        while len(address.requests) >= budget.bounds.address.requests:
            next(iter(address.requests)).expire()
        while budget.request_count >= budget.bounds.process.requests:
            budget.greediest(lambda each: len(each.requests)).oldest_request().expire()
        request = Request(self, budget.now(), expire)
        self.requests[request] = address.requests[request] = budget.requests[request] = None
        budget.request_count += 1
        return request

    def reserve(self, size: int, request: Request) -> bool:
        """Count bytes for a request and return whether they fit; a negative size gives bytes back."""
        budget, address = self.budget, self._address
        bounds = budget.bounds
        if size > 0:
            if self.bytes + size > bounds.connection.bytes:
                return False
            while address.bytes + size > bounds.address.bytes:
                if not address.make_room(request):
                    return False
            while budget.bytes + size > bounds.process.bytes:
                if not budget.greediest(lambda each: each.bytes).make_room(request):
                    return False
        self.bytes += size
        address.bytes += size
        budget.bytes += size
        return True

    def forget(self, request: Request, size: int) -> None:
        """Stop counting a request that is over, together with its `size` buffered bytes."""
        self.reserve(-size, request)
        self.requests.pop(request, None)
        self._address.requests.pop(request, None)
        self.budget.requests.pop(request, None)
        self.budget.request_count -= 1
        # It got an answer, so connections of its address that got none are dropped before it.
        self._address.rejuvenate(self)

    def authenticate(self) -> None:
        """Mark the connection as authenticated. Does nothing if it already is, or is closed."""
        if not self.authenticated and self.is_open:
            self.authenticated = True
            self.budget.forget_unauthenticated(self, self._address)

    def spend_cpu(self, seconds: float) -> float:
        """Count CPU time; return for how many seconds reading from the connection should pause."""
        if self.authenticated:
            return 0.0
        budget = self.budget
        now = budget.now()
        self._spent_s += seconds
        of_address, of_process = self._address.cpu.spend(seconds, now), budget.cpu.spend(seconds, now)
        rest = self._cpu.spend(seconds, now)
        free_s = budget.bounds.free_cpu_s
        if max(of_address, of_process) > _DEBT_S:
            free_s *= _LITTLE_FREE
        if self._spent_s > free_s:
            rest = max(rest, of_address, of_process)
        elif of_address > _DEEP_DEBT_S:
            rest = max(rest, _SHORT_REST_S)
        return min(rest, budget.bounds.longest_rest_s)

    def close(self) -> None:
        """Stop counting the connection, because it is lost. Calling it again does nothing."""
        if not self.is_open:
            return
        self.is_open = False
        for request in list(self.requests):
            request.close()
        self.budget.forget(self, self._address)


class _Address:
    """All unauthenticated connections and requests of one address, oldest first."""

    __slots__ = ("accounts", "bytes", "cpu", "name", "requests")

    def __init__(self, name: str, cpu: Bucket) -> None:
        self.name = name
        self.cpu = cpu
        self.bytes = 0
        self.accounts: OrderedDict[Account, None] = OrderedDict()
        self.requests: OrderedDict[Request, None] = OrderedDict()

    def oldest_request(self) -> Request:
        return next(iter(self.requests))

    def make_room(self, keep: Request) -> bool:
        """Expire the oldest request other than `keep`; return False when there is none."""
        oldest = next((each for each in self.requests if each is not keep), None)
        if oldest is None:
            return False
        oldest.expire()
        return True

    def rejuvenate(self, account: Account) -> None:
        if account in self.accounts:
            self.accounts.move_to_end(account)


class Budget:
    """The budget of a process (see the module's docstring). `now` returns monotonic seconds."""

    def __init__(self, now: Callable[[], float], bounds: Bounds | None = None) -> None:
        self.now = now
        self.bounds = bounds or Bounds()
        share = self.bounds.process
        self.cpu = Bucket(share.cpu, share.cpu_burst_s, now())
        self.bytes = 0
        self.request_count = 0
        self.requests: OrderedDict[Request, None] = OrderedDict()
        """Unfinished requests, oldest first."""
        self._accounts: OrderedDict[Account, None] = OrderedDict()
        """All connections, ordered by when they were last checked, longest ago first."""
        self._unauthenticated = 0
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    @property
    def unauthenticated(self) -> int:
        """Return the number of connections that have shown no credential."""
        return self._unauthenticated

    def connect(self, peer_name: object, peer: Peer) -> Account | None:
        """Count a new connection, given its socket's peer name.

        Return None if the process is at its limit and all its connections are authenticated; the caller must then
        close the new one.
        """
        bounds = self.bounds
        address = self._address_of(peer_name)
        if len(self._accounts) >= bounds.all_connections and not self.make_room():
            return None
        if len(address.accounts) >= bounds.address.connections:
            self._drop(next(iter(address.accounts)))
        if self._unauthenticated >= bounds.process.connections:
            self.make_room()
        self._addresses.setdefault(address.name, address)
        account = Account(self, address, peer)
        self._accounts[account] = address.accounts[account] = None
        self._unauthenticated += 1
        return account

    def make_room(self) -> bool:
        """Close the oldest unauthenticated connection of the address that has most; return False when there is none.

        Also for callers that find the process out of file descriptors.
        """
        if not self._unauthenticated:
            return False
        self._drop(next(iter(self.greediest(lambda each: len(each.accounts)).accounts)))
        return True

    def sweep(self, most: int = 1_000) -> None:
        """End requests that are too old and connections that are idle. Call it about every second.

        Each call checks at most `most` connections.
        """
        now = self.now()
        while self.requests:
            request = next(iter(self.requests))
            if request.began is not None and request.began + self.bounds.request_s > now:
                break
            request.expire()
        for _ in range(min(most, len(self._accounts))):
            account = next(iter(self._accounts))
            self._accounts.move_to_end(account)
            self._check(account, now)
        for address in list(islice(self._addresses.values(), most)):
            self._addresses.move_to_end(address.name)
            # An address that is in debt for CPU time is kept until the debt is paid.
            if not address.accounts and not address.requests and address.cpu.spend(0.0, now) == 0.0:
                del self._addresses[address.name]

    def greediest(self, amount: Callable[[_Address], int]) -> _Address:
        """Return the address with the largest `amount`."""
        return max(self._addresses.values(), key=amount)

    def forget_unauthenticated(self, account: Account, address: _Address) -> None:
        """Stop counting a connection as unauthenticated: it has authenticated, or was closed before it did."""
        self._unauthenticated -= 1
        address.accounts.pop(account, None)

    def forget(self, account: Account, address: _Address) -> None:
        """Stop counting a closed connection; nothing happens if it is not counted."""
        self._accounts.pop(account, None)
        if not account.authenticated:
            self.forget_unauthenticated(account, address)

    def _check(self, account: Account, now: float) -> None:
        activity = account.peer.activity()
        if activity != account.activity or account.peer.is_busy():
            account.activity = activity
            account.quiet_since = now
            return
        bounds = self.bounds
        if now - account.quiet_since >= (bounds.authenticated_idle_s if account.authenticated else bounds.idle_s):
            account.quiet_since = now
            account.peer.close_idle()

    def _drop(self, account: Account) -> None:
        account.close()
        account.peer.abort()

    def _address_of(self, peer_name: object) -> _Address:
        name = address_name(peer_name)
        found = self._addresses.get(name)
        if found is None:
            share = self.bounds.address
            found = _Address(name, Bucket(share.cpu, share.cpu_burst_s, self.now()))
        return found


def address_name(peer_name: object) -> str:
    """Return the name under which a peer is counted: its IPv4 address, or the /64 network of its IPv6 address.

    A Unix socket's peer has no address and is counted as "".
    """
    if not isinstance(peer_name, tuple) or not peer_name:
        return ""  # of a Unix socket
    try:
        address = ipaddress.ip_address(str(peer_name[0]).partition("%")[0])
    except ValueError:
        return str(peer_name[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)).network_address)
    return str(address)
