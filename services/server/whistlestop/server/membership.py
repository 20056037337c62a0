"""A server's rows in `cluster_membership`, one for each role, and what it makes of the others' rows.

A row is written at start, renewed while the server lives, and removed when it leaves.

Rules of this file:
  - membership is for placement and for people, never for safety: a row that is late or lost changes nothing true;
  - whether another lives is told by its heartbeats moving on, as seen by our own steady clock: wall clocks need not
    agree, and may be set;
  - who joins calls (a hint); the living answer by a heartbeat, and who does not answer in CALL_S is held for gone until
    it beats again. So nobody waits for a row of a killed process to expire;
  - while a process is alone it beats slowly. A call, or a row of another, makes it beat fast.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.loops import Loop
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
"""Between heartbeats."""

SILENCE_S = 7.0
"""Without a heartbeat for this long, one that beats fast is gone."""
EXPIRY_S = 10.0
ALONE_EXPIRY_S = 60.0
"""What the rows say, for people, and for who comes anew."""
CALL_S = 1.0
REREAD_LEASES_NS = 60 * SECOND_NS
MOST_MEMBERS = 1000
TOPIC = "cluster"

log = logging.getLogger(__name__)


class Scanner(Protocol):
    """What works on ranges of slots."""

    def scan(self, spans: Sequence[tuple[int, int]]) -> None:
        """From now on these, beginning with a look at all that is there."""
        ...


class Others:
    """What is known of the other members: whose heartbeats move on."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}
        """The last heartbeat of each, and when we first saw that one (0: it is held for gone)."""
        self.look_again_ns = 0
        """When the first of them will have been silent for too long; 0: never."""

    def observe(self, members: Sequence[Member], now_ns: int) -> list[Member]:
        """Those of the rows read now, by the steady clock, whose owners live."""
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
        self.look_again_ns = min(ends, default=0)
        return alive

    def doubt(self, since_ns: int) -> None:
        """Those that did not beat since `since_ns` are gone until they do."""
        self._seen = {host: (beat, at if at > since_ns else 0) for host, (beat, at) in self._seen.items()}


class Membership:
    """Keeps one member's rows alive, watches the others, and sees that the right ranges are scanned here."""

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
        """Our rows say that the next heartbeat takes long."""
        self._known: tuple[frozenset[str], tuple[tuple[int, int], ...]] = (frozenset(), ())
        self._leases_read_ns = 0
        self._apart_ns = 0
        """What the wall clock was ahead of the steady one when this member joined.

        Where it was set forward since, the rows of others would seem to have expired: those that had not by the clock
        as it was are read, and their heartbeats tell.
        """
        self._task: asyncio.Task[None] | None = None
        self.on_alone: Callable[[], None] | None = None
        """Told at each look that finds no others: nobody else listens for hints."""
        self.on_gone: Callable[[], None] | None = None
        """Told when one of the others is silent for too long: what it committed last it may not have told."""
        self._alive: frozenset[str] = frozenset()
        self._loop = Loop("membership", clock, most_pause_s=BESIDE_OTHERS_S)

    async def join(self, rpc_address: str, rpc_port: int) -> None:
        """Write the first heartbeat and go on."""
        now_ns = self._clock.now_ns()
        self._apart_ns = now_ns - self._clock.steady_ns()
        self._members = [
            Member(f"{self._host_id}/{role}", role, rpc_address, rpc_port, now_ns, now_ns, now_ns)
            for role in self._roles
        ]
        hints = self._notifier.subscribe(TOPIC)
        hints.__enter__()
        try:
            await self._look(reread=False)
        except BaseException:
            hints.__exit__(None, None, None)
            raise
        self._task = asyncio.create_task(self._keep(hints), name="membership")

    async def leave(self) -> None:
        """Stop, let go of the ranges, and take the rows out."""
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

    async def _keep(self, hints: Subscription) -> None:
        try:
            if not self._alone:
                await self._call()
            while True:
                pace_s = ALONE_S if self._alone and self._wrote_slow else BESIDE_OTHERS_S
                if self._leases is not None and self._leases.is_waiting:
                    pace_s = CALL_S
                deadline_ns = self._clock.steady_ns() + round(pace_s * SECOND_NS)
                if self._others.look_again_ns:
                    deadline_ns = min(deadline_ns, self._others.look_again_ns)
                called = False
                while not called and await hints.wait(deadline_ns):
                    called = hints.elsewhere
                # A heartbeat that failed is tried again soon: the rows must not expire meanwhile.
                while not await self._loop.attempt(partial(self._look, reread=called)):
                    called = True
        finally:
            self._loop.ended()
            hints.__exit__(None, None, None)

    async def _call(self) -> None:
        """There are rows of others: see who answers."""
        began_ns = self._clock.steady_ns()
        self._notifier.publish((TOPIC,))
        await self._clock.sleep(CALL_S)
        await self._loop.attempt(partial(self._look, reread=True, doubt_ns=began_ns))

    async def _look(self, *, reread: bool, doubt_ns: int = 0) -> None:
        """Beat, read who else there is, and settle who scans what."""
        now_ns, steady_ns = self._clock.now_ns(), self._clock.steady_ns()
        self._wrote_slow = self._alone and not reread
        expires_ns = now_ns + round((ALONE_EXPIRY_S if self._wrote_slow else EXPIRY_S) * SECOND_NS)
        mine = [replace(member, last_heartbeat_ns=now_ns, expires_ns=expires_ns) for member in self._members]
        found = await self._store.heartbeat(*mine, limit=MOST_MEMBERS, since_ns=min(now_ns, steady_ns + self._apart_ns))
        # Instances of functions have no address: they scan when they are called, and hear no hints.
        servers = [member for member in found if member.rpc_address]
        alive = self._others.observe(servers, steady_ns)
        if doubt_ns:
            self._others.doubt(doubt_ns)
            alive = self._others.observe(servers, steady_ns)
        self._alone = not alive
        before, self._alive = self._alive, frozenset(member.host_id for member in alive)
        if before - self._alive and self.on_gone is not None:
            self.on_gone()
        if self._alone and self.on_alone is not None:
            self.on_alone()
        if self._leases is not None:
            await self._settle([*mine, *alive], steady_ns, expires_ns, reread=reread)

    async def _settle(self, members: Sequence[Member], now_ns: int, expires_ns: int, *, reread: bool) -> None:
        assert self._leases is not None
        scanners = frozenset(member.host_id for member in members if member.role == "history")
        before, spans_before = self._known
        if self._task is None and len(members) > len(self._members):
            # Just joined: who of these lives shows when they were called.
            return
        old = now_ns - self._leases_read_ns >= REREAD_LEASES_NS
        if reread or old or scanners != before or self._leases.is_waiting:
            self._leases_read_ns = now_ns
            if await self._leases.settle(scanners, now_ns, expires_ns):
                self._notifier.publish((TOPIC,))
        spans = self._leases.spans
        self._known = (scanners, spans)
        # What a member that is gone had armed for itself has to be found, in whosever range it stands.
        if self._scanner is not None and (spans != spans_before or before - scanners):
            log.info("scanning %s", spans, extra={"host_id": self._host_id})
            self._scanner.scan(spans)

