"""The second storey of a connection: calls, from their head to their handler's end.

Rules of this file: it knows handlers and deadlines, no frames. Each call has one task, which ends in exactly one of:
a reply, a refusal, or silence when the stream was closed meanwhile (reset by the peer, expired, or lost). Whoever
closes a stream cancels its task; the handler sees CancelledError where it waits.

Who calls is asked at a call's head (`admit`), before anything of its request is kept. Where that takes a look
elsewhere, nothing more is read from a connection that has not shown a credential yet.

Deadlines share one timer per connection. It is set for the earliest deadline it knew when it was set; calls that
end before leave it alone, and when it fires it looks at the calls that are there. So a call costs no timer. With more
calls the timer is less exact, so that looking at them stays a small part of the time.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from whistlestop.common.errors import Code, ServiceError, deadline_exceeded, permission_denied, unavailable
from whistlestop.common.grpc import status, strikes
from whistlestop.common.grpc.frames import ErrorCode
from whistlestop.common.grpc.messages import PREFIX, PREFIX_SIZE, TooLarge, unary_message
from whistlestop.common.grpc.outbound import ASKING, Outbound
from whistlestop.common.grpc.streaming import StreamingCall

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from whistlestop.common.budget import Account
    from whistlestop.common.grpc.head import Head, Knows
    from whistlestop.common.grpc.limits import Limits, Service
    from whistlestop.common.grpc.stream import Stream

logger = logging.getLogger(__name__)

# Deadlines this near to the timer's go with it.
_SLACK_S = 0.001
_SLACK_PER_CALL_S = 5e-6
_CPU_OF_A_PUBLIC_CALL_S: Final = 50e-6
_CPU_OF_A_QUESTION_S: Final = 200e-6
"""Of handlers, and of verifying a token, which are not measured; what frames cost is."""
_DENIED: Final = status.trailers_only(permission_denied())
_CROWDED: Final = status.trailers_only(
    ServiceError(Code.RESOURCE_EXHAUSTED, "grpc: too much is under way for callers who are not known")
)


class Calls(Outbound):
    """Handlers and their tasks."""

    def __init__(
        self, service: Service, limits: Limits, loop: asyncio.AbstractEventLoop, account: Account
    ) -> None:
        super().__init__(limits, loop)
        self.account = account
        self._service = service
        self._running = 0
        self._begun = 0
        """Calls that were begun in this turn."""
        self._leaving: set[asyncio.Task[None]] = set()
        """Cancelled, not yet ended; the loop itself holds tasks weakly."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.buffered = 0

    # -- who calls --

    def admit(self, stream: Stream) -> bool:
        """Whether the call may begin, as far as its head tells; if not, it is refused."""
        head = stream.head
        method = head.method
        assert method is not None
        if method.public:
            if method.peek is not None and method.peek(head):
                self._vouch()
                return True
            return self._count(stream)
        if method.knows is None:
            self._vouch()
            return True
        now = self._loop.time()
        if head.known_until > now:
            return True
        known = None if method.peek is None else method.peek(head)
        if known:
            head.known_until = now + self.limits.credential_kept_s
            self._vouch()
            return True
        if known is None:
            return self._ask(stream, method.knows)
        self._deny(stream, strikes.ONE)
        return False

    def _vouch(self) -> None:
        """A known caller uses the connection."""
        if not self.account.authenticated:
            self.account.authenticate()
            self.trust()

    def _count(self, stream: Stream) -> bool:
        """Let the budget know of a call whose caller is not known; refuse it when there is no room."""
        head = stream.head
        stream.request = self.account.open_request(partial(self._expired, stream))
        size = sum(len(name) + len(value) for name, value in head.headers.items())
        if stream.request is not None and stream.request.hold(size):
            self.account.spend_cpu(_CPU_OF_A_PUBLIC_CALL_S)
            return True
        self.strikes.add(strikes.CHEAP)
        self.reset(stream, ErrorCode.REFUSED_STREAM)
        return False

    def _expired(self, stream: Stream) -> None:
        """A request stayed unfinished for too long, or has to make room for others."""
        self._cut(stream, ServiceError(Code.RESOURCE_EXHAUSTED, "grpc: the request was not finished in time"))

    def _ask(self, stream: Stream, knows: Knows) -> bool:
        if not self.account.authenticated:
            if not self._count(stream):
                return False
            self.read_no_more(ASKING)
        stream.admitted = False
        self._run(stream, self._find_out(stream, knows))
        return True

    async def _find_out(self, stream: Stream, knows: Knows) -> None:
        try:
            known = await self._is_known(stream, knows)
        except asyncio.CancelledError:
            self._cancelled(stream)
            known = False
        finally:
            self._ran(stream)
        if known and not stream.closed:
            stream.admitted = True
            stream.head.known_until = self._loop.time() + self.limits.credential_kept_s
            if stream.request is not None:
                stream.request.close()
                stream.request = None
            self._vouch()
            if stream.ended:
                self._serve_whole(stream, bytes(stream.body))
        self.read_again(ASKING)

    async def _is_known(self, stream: Stream, knows: Knows) -> bool:
        """Who is not, is refused."""
        try:
            if await knows(stream.head):
                return True
        except Exception:
            logger.exception("asking who calls %s failed", stream.head.path)
            self._refuse(stream, ServiceError(Code.INTERNAL, "internal error"))
            return False
        self.account.spend_cpu(_CPU_OF_A_QUESTION_S)
        self.strike(strikes.OF_A_REFUSAL)
        if not stream.closed:
            self._deny(stream, 0.0)
        return False

    def _deny(self, stream: Stream, cost: float) -> None:
        self.refuse(stream, _DENIED, b"")
        self.strikes.add(cost)

    def strike(self, cost: float) -> None:
        """Count what no frame at hand has cost; ends the connection when it is too much."""
        raise NotImplementedError

    # -- a call begins --

    def begin(self, stream: Stream) -> None:
        """A stream's head is there."""
        head = stream.head
        self._begun += 1
        stream.begun = True
        if head.timeout_s is not None:
            stream.deadline = at = self._loop.time() + head.timeout_s
            if self._timer is None or (at < self._timer_at and at < self._timer_at - self._slack_s()):
                self._set_timer(at)
        if head.method is not None and head.method.streaming is not None:
            stream.call = StreamingCall(self, stream, head.method)
            self._run(stream, self._serve_streaming(stream, stream.call))

    def take(self, stream: Stream, data: bytes) -> None:
        """More of a request."""
        if stream.call is not None:
            self._feed(stream, data, ended=False)
            return
        if stream.request is not None and not stream.request.hold(len(data)):
            self.refuse(stream, _CROWDED, b"")
            return
        self.buffered += len(data)
        if not stream.body:
            stream.body = data
        else:
            if isinstance(stream.body, bytes):
                stream.body = bytearray(stream.body)
            stream.body += data
        if len(stream.body) >= PREFIX_SIZE:
            length = PREFIX.unpack_from(stream.body)[1]
            most = self._most(stream.head)
            if length > most:
                self._refuse(stream, self._too_large(stream.head, length))
            elif len(stream.body) > length + PREFIX_SIZE:
                self._refuse(stream, ServiceError(Code.INTERNAL, "grpc: a unary request with two messages"))
            elif self.buffered > self.limits.max_buffered:
                self._refuse(stream, ServiceError(Code.RESOURCE_EXHAUSTED, "grpc: too many unfinished requests"))

    def end(self, stream: Stream, data: bytes) -> None:
        """The request is whole with `data`."""
        stream.ended = True
        if stream.call is not None:
            self._feed(stream, data, ended=True)
            if stream.request is not None:
                stream.request.finish()
            return
        if not stream.admitted:
            self.take(stream, data)
            return
        self._serve_whole(stream, bytes(stream.body) + data if stream.body else data)

    def _serve_whole(self, stream: Stream, body: bytes) -> None:
        if stream.body:
            self.buffered -= len(stream.body)
            stream.body = b""
        if stream.request is not None:
            stream.request.finish()
        message = self._unpacked(stream, body)
        if message is not None:
            self._run(stream, self._serve(stream, message))

    def _unpacked(self, stream: Stream, body: bytes) -> bytes | None:
        """The message of a request; None when it is refused."""
        try:
            return unary_message(body, gzipped=stream.head.gzipped, most=self._most(stream.head))
        except ServiceError as error:
            self._refuse(stream, error)
        except TooLarge as error:
            self._refuse(stream, self._too_large(stream.head, error.size))
        return None

    def _most(self, head: Head) -> int:
        most = head.method.most  # type: ignore[union-attr]  # a call without a method has not begun
        return self.limits.max_message if most is None else most

    def _too_large(self, head: Head, size: int) -> ServiceError:
        most = self._most(head)
        if most >= self.limits.max_message:
            return self._service.too_large(size)
        return ServiceError(Code.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({size} vs. {most})")

    def _feed(self, stream: Stream, data: bytes, *, ended: bool) -> None:
        assert stream.call is not None
        try:
            stream.call.feed(data, self._most(stream.head), ended=ended)
        except ServiceError as error:
            self._cut(stream, error)
        except TooLarge as error:
            self._cut(stream, self._too_large(stream.head, error.size))

    # -- handlers --

    def _run(self, stream: Stream, work: Coroutine[Any, Any, None]) -> None:
        self._running += 1
        stream.running = True
        stream.task = self._loop.create_task(work)

    def _ran(self, stream: Stream) -> None:
        if stream.running:
            stream.running = False
            self._running -= 1

    async def _serve(self, stream: Stream, message: bytes) -> None:
        head = stream.head
        try:
            reply = await head.method.unary(message, head)  # type: ignore[union-attr,misc]  # no others come here
            if not stream.closed:
                self.reply(stream, reply)
        except ServiceError as error:
            self._refuse(stream, error)
        except asyncio.CancelledError:
            self._cancelled(stream)
        except Exception:
            # A bug: told to the log, without the payload, and to nobody else.
            logger.exception("%s failed", head.path)
            self._refuse(stream, ServiceError(Code.INTERNAL, "internal error"))
        finally:
            self._ran(stream)

    async def _serve_streaming(self, stream: Stream, call: StreamingCall) -> None:
        head = stream.head
        try:
            await head.method.streaming(call)  # type: ignore[union-attr,misc]  # as above
            if not stream.closed:
                self.finish(stream, status.OK)
        except ServiceError as error:
            self._refuse(stream, error)
        except asyncio.CancelledError:
            self._cancelled(stream)
        except Exception:
            # A bug: told to the log, without the payload, and to nobody else.
            logger.exception("%s failed", head.path)
            self._refuse(stream, ServiceError(Code.INTERNAL, "internal error"))
        finally:
            self._ran(stream)

    def _cancelled(self, stream: Stream) -> None:
        if not stream.closed:
            # Not by this file: the program ends its tasks.
            self._refuse(stream, ServiceError(Code.CANCELLED, "the call was cancelled"))

    def _refuse(self, stream: Stream, error: ServiceError) -> None:
        if stream.closed:
            return
        is_counted = stream.request is not None
        self.refuse(stream, status.trailers_only(error), status.trailers(error))
        if is_counted:
            self.strike(strikes.OF_A_REFUSAL)

    # -- a call is cut short --

    def forget(self, stream: Stream) -> None:
        if stream.body:
            self.buffered -= len(stream.body)
        super().forget(stream)

    def abandon(self, stream: Stream) -> None:
        """The peer wants no answer any more, or is gone."""
        self.forget(stream)
        self._cancel(stream)

    def _cut(self, stream: Stream, error: ServiceError) -> None:
        """End a call from our side, with an error where that can still be said."""
        if stream.closed:
            return
        if stream.outgoing is not None:
            self.reset(stream, ErrorCode.CANCEL)
        else:
            self._refuse(stream, error)
        self._cancel(stream)

    def give_up_stream(self, stream: Stream) -> None:
        self.reset(stream, ErrorCode.CANCEL)
        self._cancel(stream)

    def _cancel(self, stream: Stream) -> None:
        task = stream.task
        if task is not None and not task.done():
            self._leaving.add(task)
            task.add_done_callback(partial(self._left, stream))
            task.cancel()

    def _left(self, stream: Stream, task: asyncio.Task[None]) -> None:
        self._leaving.discard(task)
        stream.task = None  # it keeps the frame that it was cancelled in, which refers to the stream
        # A task that was cancelled before its first step has run nothing of itself.
        self._ran(stream)
        if not stream.admitted:
            self.read_again(ASKING)

    def abandon_all(self) -> None:
        """The connection is lost."""
        self.lost = True
        for stream in list(self.streams.values()):
            self.abandon(stream)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.stop_watching_unsent()
        self.over.clear()

    def refuse_all(self) -> None:
        """The time to finish is over."""
        for stream in list(self.streams.values()):
            self._cut(stream, unavailable("the server is shutting down"))

    # -- deadlines --

    def _slack_s(self) -> float:
        return _SLACK_S + _SLACK_PER_CALL_S * len(self.streams)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        slack_s = self._slack_s()
        earliest: float | None = None
        for stream in list(self.streams.values()):
            at = stream.deadline
            if at is None:
                continue
            if at <= now + _SLACK_S:
                self._cut(stream, deadline_exceeded())
            elif earliest is None or at < earliest:
                earliest = at
        if earliest is not None:
            self._set_timer(max(earliest, now + slack_s))
