"""A server's rows in `cluster_membership`, one for each role, and how it judges the rows of others.

A row is written at the start, renewed while the server lives, and removed when it leaves.

- Membership is used for placement and for display, never for safety: a late or lost row makes nothing incorrect.
- Another member is alive while its heartbeats advance, as observed by our own steady clock: wall clocks need not
  agree,
  and may be set.
- A member that joins sends a notification; living members answer with a heartbeat, and one that does not answer
  within
  CALL_S counts as gone until its next heartbeat. So nobody waits for the row of a killed process to expire.
- A member that is alone sends heartbeats slowly. A notification, or a row of another member, makes it send them fast.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from whistlestop.common.clock import SECOND_NS
from whistlestop.net.tasks.loops import Loop
from whistlestop.storage.errors import StorageError
from whistlestop.storage.records import Member

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from whistlestop.common.clock import Clock
    from whistlestop.common.notify import Notifier, Subscription
    from whistlestop.server.ranges import Leases
    from whistlestop.storage.interface import ClusterStore

ALONE_S = 20.0
BESIDE_OTHERS_S = 3.0
"""Interval of heartbeats beside other members; ALONE_S without."""

SILENCE_S = 7.0
"""A member with fast heartbeats is gone after this time without one."""
EXPIRY_S = 10.0
ALONE_EXPIRY_S = 60.0
"""Expiry written into the rows, for display and for members that join later."""
CALL_S = 1.0
REREAD_LEASES_NS = 60 * SECOND_NS
MAX_MEMBERS = 1000
TOPIC = "cluster"

log = logging.getLogger(__name__)


class Scanner(Protocol):
    """Something that scans ranges of slots."""

    def scan(self, spans: Sequence[tuple[int, int]]) -> None:
        """Scan these spans from now on, beginning with everything that is there."""
        ...


class Others:
    """The other members, and whether their heartbeats advance."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}
        """Each member's last heartbeat, and when it was first observed (0: the member counts as gone)."""
        self.next_check_ns = 0
        """When the first of them will have been silent for too long; 0: never."""

    def observe(self, members: Sequence[Member], now_ns: int) -> list[Member]:
        """Return the members, of the rows just read, that are alive at `now_ns` (steady clock). Empty when none is."""
        seen: dict[str, tuple[int, int]] = {}
        alive = []
        ends = []
        for member in members:
            beat = self._seen.get(member.host_id)
            if beat is None or beat[0] != member.last_heartbeat_ns:
                beat = (member.last_heartbeat_ns, now_ns)
            slow = member.expires_ns - member.last_heartbeat_ns > EXPIRY_S * SECOND_NS
            end_ns = beat[1] + round((ALONE_EXPIRY_S if slow and beat[1] else SILENCE_S) * SECOND_NS)
            if now_ns < end_ns:
                alive.append(member)
                ends.append(end_ns)
            seen[member.host_id] = beat
        self._seen = seen
        self.next_check_ns = min(ends, default=0)
        return alive

    def expire_silent(self, since_ns: int) -> None:
        """Count members without a heartbeat after `since_ns` as gone until their next one."""
        self._seen = {host: (beat, at if at > since_ns else 0) for host, (beat, at) in self._seen.items()}


class Membership:
    """Keeps a member's rows alive, watches the other members, and makes this process scan its ranges."""

    def __init__(
        self, store: ClusterStore, clock: Clock, notifier: Notifier, host_id: str, roles: Sequence[str],
        *, leases: Leases | None = None, scanner: Scanner | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self._notifier = notifier
        self._host_id = host_id
        self._roles = tuple(roles)
        self._leases = leases
        self._scanner = scanner
        self._members: list[Member] = []
        self._others = Others()
        self._alone = True
        self._wrote_slow = True
        """Our rows announce that the next heartbeat takes long."""
        self._known: tuple[frozenset[str], tuple[tuple[int, int], ...]] = (frozenset(), ())
        self._leases_read_ns = 0
        self._apart_ns = 0
        """The difference between wall clock and steady clock when this member joined. If the wall clock is set
        forward later, the rows of others seem to have expired: rows are read as of the former difference, and
        their heartbeats decide."""
        self._task: asyncio.Task[None] | None = None
        self.on_alone: Callable[[], None] | None = None
        """Called at each check that finds no other members: nobody else listens for notifications."""
        self.on_member_lost: Callable[[], None] | None = None
        """Called when another member has gone: notifications of its last commits may be lost."""
        self._alive: frozenset[str] = frozenset()
        self._loop = Loop("membership", clock, most_pause_s=BESIDE_OTHERS_S)

    async def join(self, rpc_address: str, rpc_port: int) -> None:
        """Write the first heartbeat, and start to renew it. Raise StorageError."""
        now_ns = self._clock.now_ns()
        self._apart_ns = now_ns - self._clock.steady_ns()
        self._members = [
            Member(f"{self._host_id}/{role}", role, rpc_address, rpc_port, now_ns, now_ns, now_ns)
            for role in self._roles
        ]
        notifications = self._notifier.subscribe(TOPIC)
        notifications.__enter__()
        try:
            await self._heartbeat(reread=False)
        except BaseException:
            notifications.__exit__(None, None, None)
            raise
        self._task = asyncio.create_task(self._keep(notifications), name="membership")

    async def leave(self) -> None:
        """Stop, release the ranges, and remove the rows."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        try:
            for member in self._members:
                await self._store.remove_member(member.host_id)
            if self._leases is not None:
                await self._leases.release(self._clock.steady_ns(), self._clock.now_ns())
        except StorageError as error:
            log.warning(
                "could not leave the cluster (%s); the rows expire by themselves", error,
                extra={"host_id": self._host_id},
            )  # fmt: skip
        self._notifier.publish((TOPIC,))

    async def _keep(self, notifications: Subscription) -> None:
        try:
            if not self._alone:
                await self._call()
            while True:
                pace_s = ALONE_S if self._alone and self._wrote_slow else BESIDE_OTHERS_S
                if self._leases is not None and self._leases.is_waiting:
                    pace_s = CALL_S
                deadline_ns = self._clock.steady_ns() + round(pace_s * SECOND_NS)
                if self._others.next_check_ns:
                    deadline_ns = min(deadline_ns, self._others.next_check_ns)
                called = False
                while not called and await notifications.wait(deadline_ns):
                    called = notifications.remote
                # Retry a failed heartbeat soon, because the rows must not expire meanwhile.
                while not await self._loop.attempt(partial(self._heartbeat, reread=called)):
                    called = True
        finally:
            self._loop.ended()
            notifications.__exit__(None, None, None)

    async def _call(self) -> None:
        """Find out which of the members found at the start are alive."""
        began_ns = self._clock.steady_ns()
        self._notifier.publish((TOPIC,))
        await self._clock.sleep(CALL_S)
        await self._loop.attempt(partial(self._heartbeat, reread=True, silent_since_ns=began_ns))

    async def _heartbeat(self, *, reread: bool, silent_since_ns: int = 0) -> None:
        """Send a heartbeat, read the other members, and update the ranges."""
        now_ns, steady_ns = self._clock.now_ns(), self._clock.steady_ns()
        self._wrote_slow = self._alone and not reread
        expires_ns = now_ns + round((ALONE_EXPIRY_S if self._wrote_slow else EXPIRY_S) * SECOND_NS)
        mine = [replace(member, last_heartbeat_ns=now_ns, expires_ns=expires_ns) for member in self._members]
        found = await self._store.heartbeat(*mine, limit=MAX_MEMBERS, since_ns=min(now_ns, steady_ns + self._apart_ns))
        # Instances of functions have no address: they scan when they are invoked, and receive no notifications.
        servers = [member for member in found if member.rpc_address]
        alive = self._others.observe(servers, steady_ns)
        if silent_since_ns:
            self._others.expire_silent(silent_since_ns)
            alive = self._others.observe(servers, steady_ns)
        self._alone = not alive
        before, self._alive = self._alive, frozenset(member.host_id for member in alive)
        if before - self._alive and self.on_member_lost is not None:
            self.on_member_lost()
        if self._alone and self.on_alone is not None:
            self.on_alone()
        if self._leases is not None:
            await self._settle([*mine, *alive], steady_ns, expires_ns, reread=reread)

    async def _settle(self, members: Sequence[Member], now_ns: int, expires_ns: int, *, reread: bool) -> None:
        assert self._leases is not None
        scanners = frozenset(member.host_id for member in members if member.role == "history")
        before, spans_before = self._known
        if self._task is None and len(members) > len(self._members):
            # This member has just joined: `_call` will show which of these are alive.
            return
        old = now_ns - self._leases_read_ns >= REREAD_LEASES_NS
        if reread or old or scanners != before or self._leases.is_waiting:
            self._leases_read_ns = now_ns
            if await self._leases.settle(scanners, now_ns, expires_ns):
                self._notifier.publish((TOPIC,))
        spans = self._leases.spans
        self._known = (scanners, spans)
        # Timers that a gone member had in memory have to be found, in whatever range they are.
        if self._scanner is not None and (spans != spans_before or before - scanners):
            log.info("scanning %s", spans, extra={"host_id": self._host_id})
            self._scanner.scan(spans)
