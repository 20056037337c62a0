"""What peers may cost before it is known who they are: one budget for all listeners of a process.

Each connection has an `Account`, whichever protocol it speaks; an account belongs to an `_Address`, and all of them to
the process's `Budget`. On each of these three levels there is a bound for

    connections      that have shown no credential yet
    requests         (streams) of which it is not known who sends them, or that anybody may send
    bytes            kept of such requests
    CPU time         spent on connections that have shown no credential

and there are bounds for the age of an unfinished request and for how long a connection may be idle.

When an address or the process is at a bound, what is oldest makes room for what is new: a connection or a request
that is unfinished for long is less likely to be of a client that works. The address that has most loses first, so a
crowd behind one address cannot shut out the others. Only a single connection that asks for too much is refused.
IPv6 addresses are counted by their /64, since one host commonly has all addresses of such a network.

A connection is authenticated by its first request with a known credential (where no credentials are asked for: by its
first request that is not for everybody). From then on it counts only towards the descriptors that the process has,
and is closed only when it is idle for long.

The module does no I/O and reads no clock by itself: `now` is a function, and peers are closed through `Peer`.
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
    """What one connection, one address or the whole process may have at a time without a credential."""

    connections: int
    requests: int
    bytes: int
    cpu: float
    """Seconds of CPU time per second."""
    cpu_burst_s: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """Every bound has a number. Sizes in bytes, times in seconds."""

    connection: Share = Share(1, 100, 1024 * 1024, 0.1, 0.1)
    address: Share = Share(512, 1_000, 4 * 1024 * 1024, 0.25, 0.5)
    process: Share = Share(2_048, 4_000, 16 * 1024 * 1024, 0.5, 1.0)
    all_connections: int = 65_536
    """Authenticated ones included: what the process has descriptors for."""
    request_s: float = 10.0
    """How old an unfinished request may get."""
    idle_s: float = 30.0
    """How long a connection without a credential may have nothing to do."""
    authenticated_idle_s: float = 120.0
    """How long one with a credential may: as with Temporal's frontend (keepAliveMaxConnectionIdle)."""
    free_cpu_s: float = 0.02
    """What a connection may use although its address or the process has used up its share: a health check works
    beside an attack from the same address."""
    longest_rest_s: float = 10.0
    """For how long a connection is left alone at most once it has used up its CPU time."""


class Peer(Protocol):
    """A connection as the budget sees it."""

    def activity(self) -> int:
        """Return a number that changes with each request that begins or gets on."""
        ...

    def is_busy(self) -> bool:
        """Return whether a request is under way (however long it takes: a poll is one)."""
        ...

    def close_idle(self) -> None:
        """Close politely: there is nothing to do."""
        ...

    def abort(self) -> None:
        """Close at once, without a word."""
        ...


_DEBT_S = 0.5
_LITTLE_FREE = 0.1
_DEEP_DEBT_S = 5.0
_SHORT_REST_S = 0.2
"""An address, or a process, that needs so long to make up for its CPU time leaves a connection a part of its free time;
in deep debt of their address, new connections rest as well, but not for long."""


def _nothing() -> None:
    return


class Bucket:
    """A token bucket that may go into debt: `spend` says how long to wait until it is even again."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now

    def spend(self, amount: float, now: float) -> float:
        """Take `amount`; return the seconds until the debt is paid, 0 without one."""
        self._level = min(self._burst, self._level + (now - self._at) * self._rate) - amount
        self._at = now
        return -self._level / self._rate if self._level < 0 else 0.0


class Request:
    """A request (an HTTP/2 stream) that counts towards the budget until it is closed or its sender is known."""

    __slots__ = ("_account", "_bytes", "_expire", "began", "is_open")

    def __init__(self, account: Account, began: float, expire: Callable[[], None]) -> None:
        self._account = account
        self._expire = expire
        self._bytes = 0
        self.began: float | None = began
        """When it began or last got on; None once nothing more is to come."""
        self.is_open = True

    def hold(self, size: int) -> bool:
        """Count `size` more bytes as kept. Return False, and count nothing, if the connection has no room for them."""
        if not self.is_open:
            return True
        if not self._account.reserve(size, self):
            return False
        self._bytes += size
        return True

    def release(self, size: int) -> None:
        """Give back bytes that are not kept any more."""
        size = min(size, self._bytes)
        self._bytes -= size
        self._account.reserve(-size, self)

    def finish(self) -> None:
        """Nothing more is to come: the request does not expire, but may still have to make room."""
        self.began = None
        self._account.budget.requests.pop(self, None)

    def restart(self) -> None:
        """Something came: the age of what is unfinished counts from now."""
        if self.is_open:
            self.began = self._account.budget.now()
            self._account.budget.requests[self] = None
            self._account.budget.requests.move_to_end(self)

    def spend_cpu(self, seconds: float) -> None:
        """Charge the connection with CPU time that was spent for the request elsewhere."""
        self._account.spend_cpu(seconds)

    def authenticate(self) -> None:
        """A known caller sends it: the request, and its connection, count no more."""
        self.close()
        self._account.authenticate()

    def close(self) -> None:
        """The request is over."""
        if self.is_open:
            self.is_open = False
            self._account.forget(self, self._bytes)
            self._bytes = 0
            # What it would end refers to this request: together they would wait for the garbage collector.
            self._expire = _nothing

    def expire(self) -> None:
        """End it from this side."""
        end = self._expire
        try:
            end()
        finally:
            self.close()


class Account:
    """One connection. Its protocol sets `peer` as soon as it can be closed through it."""

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

    def open_request(self, expire: Callable[[], None]) -> Request | None:
        """Count one more request; return None if the connection has too many, or is closed.

        `expire` must end the request. It may be called at any time until `close`, from within `open_request` and
        `hold` of other requests as well.
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
        """Count bytes for a request; a negative size gives them back."""
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
        """A request is over: it had that many bytes."""
        self.reserve(-size, request)
        self.requests.pop(request, None)
        self._address.requests.pop(request, None)
        self.budget.requests.pop(request, None)
        self.budget.request_count -= 1
        # It got an answer: others of its address, which got none, make room before it.
        self._address.rejuvenate(self)

    def authenticate(self) -> None:
        """A known caller uses the connection."""
        if not self.authenticated and self.is_open:
            self.authenticated = True
            self.budget.forget_stranger(self, self._address)

    def spend_cpu(self, seconds: float) -> float:
        """Count CPU time; return for how many seconds the connection should not be read from."""
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
        """The connection is over. Protocols call it when they lose it; more often does no harm."""
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
        """Expire the oldest request but that one; False when there is none."""
        oldest = next((each for each in self.requests if each is not keep), None)
        if oldest is None:
            return False
        oldest.expire()
        return True

    def rejuvenate(self, account: Account) -> None:
        if account in self.accounts:
            self.accounts.move_to_end(account)


class Budget:
    """The process's budget; see the head of this file. `now` returns monotonic seconds."""

    def __init__(self, now: Callable[[], float], bounds: Bounds | None = None) -> None:
        self.now = now
        self.bounds = bounds or Bounds()
        share = self.bounds.process
        self.cpu = Bucket(share.cpu, share.cpu_burst_s, now())
        self.bytes = 0
        self.request_count = 0
        self.requests: OrderedDict[Request, None] = OrderedDict()
        """Those that are unfinished, oldest first."""
        self._accounts: OrderedDict[Account, None] = OrderedDict()
        """Those that were looked at longest ago first."""
        self._strangers = 0
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    @property
    def unauthenticated(self) -> int:
        """Return the number of connections that have shown no credential."""
        return self._strangers

    def connect(self, peer_name: object, peer: Peer) -> Account | None:
        """Count a new connection from a socket's peer name.

        Return None if no more can be had, and all that there are are authenticated: close the new one then.
        """
        bounds = self.bounds
        address = self._address_of(peer_name)
        if len(self._accounts) >= bounds.all_connections and not self.make_room():
            return None
        if len(address.accounts) >= bounds.address.connections:
            self._drop(next(iter(address.accounts)))
        if self._strangers >= bounds.process.connections:
            self.make_room()
        self._addresses.setdefault(address.name, address)
        account = Account(self, address, peer)
        self._accounts[account] = address.accounts[account] = None
        self._strangers += 1
        return account

    def make_room(self) -> bool:
        """Close the oldest unauthenticated connection of the address that has most; return False without any.

        For whoever finds that the process has no descriptor left, as well.
        """
        if not self._strangers:
            return False
        self._drop(next(iter(self.greediest(lambda each: len(each.accounts)).accounts)))
        return True

    def sweep(self, most: int = 1_000) -> None:
        """End what is too old or idle, looking at `most` connections at a time. To be called every second or so."""
        now = self.now()
        while self.requests:
            request = next(iter(self.requests))
            if request.began is not None and request.began + self.bounds.request_s > now:
                break
            request.expire()
        for _ in range(min(most, len(self._accounts))):
            account = next(iter(self._accounts))
            self._accounts.move_to_end(account)
            self._look_at(account, now)
        for address in list(islice(self._addresses.values(), most)):
            self._addresses.move_to_end(address.name)
            # One that is in debt for CPU time is remembered until that is paid.
            if not address.accounts and not address.requests and address.cpu.spend(0.0, now) == 0.0:
                del self._addresses[address.name]

    def greediest(self, amount: Callable[[_Address], int]) -> _Address:
        """Return the address that has most of something."""
        return max(self._addresses.values(), key=amount)

    def forget_stranger(self, account: Account, address: _Address) -> None:
        """A connection is authenticated, or closed without having been."""
        self._strangers -= 1
        address.accounts.pop(account, None)

    def forget(self, account: Account, address: _Address) -> None:
        """A connection is closed."""
        self._accounts.pop(account, None)
        if not account.authenticated:
            self.forget_stranger(account, address)

    def _look_at(self, account: Account, now: float) -> None:
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
    """Return what a peer is counted under: its IPv4 address, or the /64 network of its IPv6 address."""
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
