"""The second layer of a connection: calls, from their headers to the end of their handlers.

This layer knows handlers and deadlines, but no frames. Each call has one task, which ends in exactly one of: a reply,
an error, or nothing when the stream was closed meanwhile (reset by the peer, expired, or lost). Closing a stream
cancels its task; the handler sees CancelledError where it waits.

The caller is authenticated when the headers of a call arrive (`admit`), before any of its request is buffered. If
that has to wait (a token's keys are fetched, …), reading from an unauthenticated connection pauses.

Deadlines share one timer per connection. It is set for the earliest deadline known at that time; a call that ends
earlier does not change it, and when it fires, it checks the calls in progress. So a call needs no timer of its own.
The more calls there are, the less exact the timer, to keep the share of time spent on checking small.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from whistlestop.common.errors import Code, ServiceError, deadline_exceeded, permission_denied, unavailable
from whistlestop.net.grpc import status, strikes
from whistlestop.net.grpc.frames import ErrorCode
from whistlestop.net.grpc.messages import PREFIX, PREFIX_SIZE, TooLarge, unary_message
from whistlestop.net.grpc.outbound import AUTHENTICATING, Outbound
from whistlestop.net.grpc.streaming import StreamingCall

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from whistlestop.net.budget import Account
    from whistlestop.net.grpc.head import Head, IsAuthenticated
    from whistlestop.net.grpc.limits import Limits, Service
    from whistlestop.net.grpc.stream import Stream

logger = logging.getLogger(__name__)

# Deadlines this close to the timer's expire together with it.
_SLACK_S = 0.001
_SLACK_PER_CALL_S = 5e-6
_CPU_OF_A_PUBLIC_CALL_S: Final = 50e-6
_CPU_OF_AUTHENTICATION_S: Final = 200e-6
"""Estimated CPU time of handlers, and of verifying a token, which is not measured; that of frames is."""
_DENIED: Final = status.trailers_only(permission_denied())
_TOO_MANY_UNFINISHED: Final = status.trailers_only(
    ServiceError(Code.RESOURCE_EXHAUSTED, "grpc: too many unfinished requests of unauthenticated callers")
)


class Calls(Outbound):
    """Handlers of calls, and their tasks."""

    def __init__(self, service: Service, limits: Limits, loop: asyncio.AbstractEventLoop, account: Account) -> None:
        super().__init__(limits, loop)
        self.account = account
        self._service = service
        self._running = 0
        self._begun = 0
        """Calls begun in this turn."""
        self._ending: set[asyncio.Task[None]] = set()
        """Tasks that were cancelled and have not ended; the event loop holds them only weakly."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.buffered = 0

    # -- authentication --

    def admit(self, stream: Stream) -> bool:
        """Return whether the call may begin, judging by its headers; if not, it is refused."""
        head = stream.head
        method = head.method
        assert method is not None
        if method.public:
            if method.peek is not None and method.peek(head):
                self._mark_authenticated()
                return True
            return self._count(stream)
        if method.is_authenticated is None:
            self._mark_authenticated()
            return True
        now = self._loop.time()
        if head.authenticated_until > now:
            return True
        authenticated = None if method.peek is None else method.peek(head)
        if authenticated:
            head.authenticated_until = now + self.limits.credential_kept_s
            self._mark_authenticated()
            return True
        if authenticated is None:
            return self._begin_authentication(stream, method.is_authenticated)
        self._deny(stream, strikes.ONE)
        return False

    def _mark_authenticated(self) -> None:
        """Treat the connection as authenticated, since an authenticated caller uses it."""
        if not self.account.authenticated:
            self.account.authenticate()
            self.widen_limits()

    def _count(self, stream: Stream) -> bool:
        """Count an unauthenticated call against the budget; refuse it and return False when there is no room."""
        head = stream.head
        stream.request = self.account.open_request(partial(self._expired, stream))
        size = sum(len(name) + len(value) for name, value in head.headers.items())
        if stream.request is not None and stream.request.count_bytes(size):
            self.account.spend_cpu(_CPU_OF_A_PUBLIC_CALL_S)
            return True
        self.strikes.add(strikes.CHEAP)
        self.reset(stream, ErrorCode.REFUSED_STREAM)
        return False

    def _expired(self, stream: Stream) -> None:
        """End a request that was unfinished for too long, or has to make room for others."""
        self._cut(stream, ServiceError(Code.RESOURCE_EXHAUSTED, "grpc: the request was not finished in time"))

    def _begin_authentication(self, stream: Stream, is_authenticated: IsAuthenticated) -> bool:
        if not self.account.authenticated:
            if not self._count(stream):
                return False
            self.read_no_more(AUTHENTICATING)
        stream.admitted = False
        self._run(stream, self._authenticate(stream, is_authenticated))
        return True

    async def _authenticate(self, stream: Stream, is_authenticated: IsAuthenticated) -> None:
        try:
            authenticated = await self._check_caller(stream, is_authenticated)
        except asyncio.CancelledError:
            self._cancelled(stream)
            authenticated = False
        finally:
            self._ran(stream)
        if authenticated and not stream.closed:
            stream.admitted = True
            stream.head.authenticated_until = self._loop.time() + self.limits.credential_kept_s
            if stream.request is not None:
                stream.request.close()
                stream.request = None
            self._mark_authenticated()
            if stream.ended:
                self._serve_whole(stream, bytes(stream.body))
        self.read_again(AUTHENTICATING)

    async def _check_caller(self, stream: Stream, is_authenticated: IsAuthenticated) -> bool:
        """Return whether the caller is authenticated; if not, refuse the call."""
        try:
            if await is_authenticated(stream.head):
                return True
        except Exception:
            logger.exception("authenticating a caller of %s failed", stream.head.path)
            self._refuse(stream, ServiceError(Code.INTERNAL, "internal error"))
            return False
        self.account.spend_cpu(_CPU_OF_AUTHENTICATION_S)
        self.strike(strikes.OF_A_REFUSAL)
        if not stream.closed:
            self._deny(stream, 0.0)
        return False

    def _deny(self, stream: Stream, cost: float) -> None:
        self.refuse(stream, _DENIED, b"")
        self.strikes.add(cost)

    def strike(self, cost: float) -> None:
        """Count a cost that no frame at hand causes, and end the connection when there are too many strikes."""
        raise NotImplementedError

    # -- the beginning of a call --

    def begin(self, stream: Stream) -> None:
        """Begin a call whose headers have arrived."""
        head = stream.head
        self._begun += 1
        stream.begun = True
        if head.timeout_s is not None:
            stream.deadline = at = self._loop.time() + head.timeout_s
            if self._timer is None or (at < self._timer_at and at < self._timer_at - self._slack_s()):
                self._set_timer(at)
        if head.method is not None and head.method.streaming is not None:
            stream.call = call = StreamingCall(self, stream, head.method)
            self._run(stream, self._serve_streaming(stream, call))

    def take(self, stream: Stream, data: bytes) -> None:
        """Take another piece of a request."""
        if stream.call is not None:
            self._feed(stream, data, ended=False)
            return
        if stream.request is not None and not stream.request.count_bytes(len(data)):
            self.refuse(stream, _TOO_MANY_UNFINISHED, b"")
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
        """Take the last piece of a request, and serve it."""
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
        """Return the message of a request; None when it was refused."""
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
            reply = await head.method.unary(message, head)  # type: ignore[union-attr,misc]  # such a method has one
            if not stream.closed:
                self.reply(stream, reply)
        except ServiceError as error:
            self._refuse(stream, error)
        except asyncio.CancelledError:
            self._cancelled(stream)
        except Exception:
            # A bug: log it without the payload, and tell the caller no details.
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
            # A bug: log it without the payload, and tell the caller no details.
            logger.exception("%s failed", head.path)
            self._refuse(stream, ServiceError(Code.INTERNAL, "internal error"))
        finally:
            self._ran(stream)

    def _cancelled(self, stream: Stream) -> None:
        if not stream.closed:
            # Not cancelled by this class: the program is cancelling its tasks.
            self._refuse(stream, ServiceError(Code.CANCELLED, "the call was cancelled"))

    def _refuse(self, stream: Stream, error: ServiceError) -> None:
        if stream.closed:
            return
        is_counted = stream.request is not None
        self.refuse(stream, status.trailers_only(error), status.trailers(error))
        if is_counted:
            self.strike(strikes.OF_A_REFUSAL)

    # -- the early end of a call --

    def forget(self, stream: Stream) -> None:
        """Forget a stream, whichever side ended it, and release what was buffered of its request."""
        if stream.body:
            self.buffered -= len(stream.body)
        super().forget(stream)

    def abandon(self, stream: Stream) -> None:
        """Drop a call whose peer wants no answer any more, or is gone."""
        self.forget(stream)
        self._cancel(stream)

    def _cut(self, stream: Stream, error: ServiceError) -> None:
        """End a call from our side, with an error unless part of an answer is already waiting to be sent."""
        if stream.closed:
            return
        if stream.outgoing is not None:
            self.reset(stream, ErrorCode.CANCEL)
        else:
            self._refuse(stream, error)
        self._cancel(stream)

    def give_up_stream(self, stream: Stream) -> None:
        """React to a peer that keeps a stream's window closed."""
        self.reset(stream, ErrorCode.CANCEL)
        self._cancel(stream)

    def _cancel(self, stream: Stream) -> None:
        task = stream.task
        if task is not None and not task.done():
            self._ending.add(task)
            task.add_done_callback(partial(self._task_ended, stream))
            task.cancel()

    def _task_ended(self, stream: Stream, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        stream.task = None  # a cancelled task keeps its frame, which refers to the stream
        # A task that was cancelled before its first step has not run its own `finally`.
        self._ran(stream)
        if not stream.admitted:
            self.read_again(AUTHENTICATING)

    def abandon_all(self) -> None:
        """Drop all calls, because the connection is lost."""
        self.lost = True
        for stream in list(self.streams.values()):
            self.abandon(stream)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.stop_watching_unsent()
        self.over.clear()

    def refuse_all(self) -> None:
        """End all calls with an error, because the grace period of a shutdown is over."""
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
