"""The middle storey of a connection: calls, from their head to their handler's end.

Rules of this file: it knows handlers and deadlines, no frames. Each call has one task, which ends in exactly one of:
a reply, a refusal, or silence when the stream was closed meanwhile (reset by the peer, expired, or lost). Whoever
closes a stream cancels its task; the handler sees CancelledError where it waits.

Deadlines share one timer per connection. It is set for the earliest deadline it knew when it was set; calls that
end before leave it alone, and when it fires it looks at the calls that are there. So a call costs no timer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from whistlestop.common.errors import Code, ServiceError, deadline_exceeded, permission_denied, unavailable
from whistlestop.common.grpc import status
from whistlestop.common.grpc.frames import ErrorCode
from whistlestop.common.grpc.messages import PREFIX, PREFIX_SIZE, TooLarge, unary_message
from whistlestop.common.grpc.outbound import Outbound
from whistlestop.common.grpc.streaming import StreamingCall

if TYPE_CHECKING:
    from whistlestop.common.grpc.head import Knows
    from whistlestop.common.grpc.limits import Limits, Service
    from whistlestop.common.grpc.stream import Stream

logger = logging.getLogger(__name__)

# Deadlines this near to the timer's go with it.
_SLACK_S = 0.001
MOST_FROM_STRANGERS = 16 * 1024
"""Bytes of a request that are kept, or unpacked, of whoever may be nobody."""


class Calls(Outbound):
    """Handlers and their tasks."""

    def __init__(self, service: Service, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limits)
        self._service = service
        self._loop = loop
        self._running = 0
        self._leaving: set[asyncio.Task[None]] = set()
        """Cancelled, not yet ended; the loop itself holds tasks weakly."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.buffered = 0

    # -- a call begins --

    def begin(self, stream: Stream) -> None:
        """A stream's head is there."""
        head = stream.head
        if head.timeout_s is not None:
            stream.deadline = at = self._loop.time() + head.timeout_s
            if self._timer is None or at < self._timer_at - _SLACK_S:
                self._set_timer(at)
        if head.method is not None and head.method.streaming is not None:
            stream.call = StreamingCall(self, stream)
            self._running += 1
            stream.task = self._loop.create_task(self._serve_streaming(stream, stream.call))

    def take(self, stream: Stream, data: bytes) -> None:
        """More of a request."""
        if stream.call is not None:
            self._feed(stream, data, ended=False)
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
            if length > self.limits.max_message:
                self._refuse(stream, self._service.too_large(length))
            elif len(stream.body) > length + PREFIX_SIZE:
                self._refuse(stream, ServiceError(Code.INTERNAL, "grpc: a unary request with two messages"))
            elif self.buffered > self.limits.max_buffered:
                self._refuse(stream, ServiceError(Code.RESOURCE_EXHAUSTED, "grpc: too many unfinished requests"))
            elif len(stream.body) > MOST_FROM_STRANGERS and stream.asking is None:
                self._ask(stream)

    def end(self, stream: Stream, data: bytes) -> None:
        """The request is whole with `data`."""
        stream.ended = True
        if stream.call is not None:
            self._feed(stream, data, ended=True)
            return
        if stream.body:
            body = bytes(stream.body) + data if data else bytes(stream.body)
            self.buffered -= len(stream.body)
            stream.body = b""
        else:
            body = data
        head = stream.head
        knows = head.method.knows  # type: ignore[union-attr]  # no others come here
        if knows is not None and _is_much(body, gzipped=head.gzipped):
            self._running += 1
            stream.task = self._loop.create_task(self._serve_if_known(stream, body, knows))
            return
        message = self._unpacked(stream, body)
        if message is not None:
            self._running += 1
            stream.task = self._loop.create_task(self._serve(stream, message))

    def _unpacked(self, stream: Stream, body: bytes) -> bytes | None:
        """The message of a request; None when it is refused."""
        try:
            return unary_message(body, gzipped=stream.head.gzipped, most=self.limits.max_message)
        except ServiceError as error:
            self._refuse(stream, error)
        except TooLarge as error:
            self._refuse(stream, self._service.too_large(error.size))
        return None

    # -- strangers --

    def _ask(self, stream: Stream) -> None:
        """Much is coming: no more than was granted does, until it is known from whom."""
        knows = stream.head.method.knows  # type: ignore[union-attr]  # as above
        if knows is not None:
            stream.held = True
            stream.asking = self._loop.create_task(self._find_out(stream, knows))

    async def _find_out(self, stream: Stream, knows: Knows) -> None:
        known = await self._is_known(stream, knows)
        stream.held = False
        if known and not stream.ended:
            self.grant(stream)

    async def _serve_if_known(self, stream: Stream, body: bytes, knows: Knows) -> None:
        """What a stranger sent is not unpacked."""
        message = None
        try:
            if await self._is_known(stream, knows):
                message = self._unpacked(stream, body)
        except asyncio.CancelledError:
            self._cancelled(stream)
        if message is None:
            self._running -= 1
        else:
            await self._serve(stream, message)

    async def _is_known(self, stream: Stream, knows: Knows) -> bool:
        """Who is not, is refused."""
        try:
            if await knows(stream.head):
                return True
            self._refuse(stream, permission_denied())
        except Exception:
            logger.exception("asking who calls %s failed", stream.head.path)
            self._refuse(stream, ServiceError(Code.INTERNAL, "internal error"))
        return False

    def _feed(self, stream: Stream, data: bytes, *, ended: bool) -> None:
        assert stream.call is not None
        try:
            stream.call.feed(data, self.limits.max_message, ended=ended)
        except ServiceError as error:
            self._cut(stream, error)
        except TooLarge as error:
            self._cut(stream, self._service.too_large(error.size))

    # -- handlers --

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
            self._running -= 1

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
            self._running -= 1

    def _cancelled(self, stream: Stream) -> None:
        if not stream.closed:
            # Not by this file: the program ends its tasks.
            self._refuse(stream, ServiceError(Code.CANCELLED, "the call was cancelled"))

    def _refuse(self, stream: Stream, error: ServiceError) -> None:
        if not stream.closed:
            self.refuse(stream, status.trailers_only(error), status.trailers(error))

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
        if stream.outgoing is not None:
            self.reset(stream, ErrorCode.CANCEL)
        else:
            self._refuse(stream, error)
        self._cancel(stream)

    def _cancel(self, stream: Stream) -> None:
        task = stream.task
        if task is not None and not task.done():
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
            task.cancel()

    def abandon_all(self) -> None:
        """The connection is lost."""
        self.lost = True
        for stream in list(self.streams.values()):
            self.abandon(stream)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def refuse_all(self) -> None:
        """The time to finish is over."""
        for stream in list(self.streams.values()):
            self._cut(stream, unavailable("the server is shutting down"))

    # -- deadlines --

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._expire)

    def _expire(self) -> None:
        self._timer = None
        due = self._loop.time() + _SLACK_S
        earliest: float | None = None
        for stream in list(self.streams.values()):
            at = stream.deadline
            if at is None:
                continue
            if at <= due:
                self._cut(stream, deadline_exceeded())
            elif earliest is None or at < earliest:
                earliest = at
        if earliest is not None:
            self._set_timer(earliest)


def _is_much(body: bytes, *, gzipped: bool) -> bool:
    """It is, or it would be unpacked."""
    if not gzipped or len(body) > MOST_FROM_STRANGERS:
        return len(body) > MOST_FROM_STRANGERS
    try:
        unary_message(body, gzipped=True, most=MOST_FROM_STRANGERS)
    except TooLarge:
        return True
    except ServiceError:
        return False
    return False
