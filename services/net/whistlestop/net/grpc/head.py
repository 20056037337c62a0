"""The headers of a call, parsed and checked.

A head is immutable and depends only on its header fields, so one head serves all calls with the same header block.
Clients repeat themselves, which is why parsing one may take some time.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from whistlestop.common.errors import Code, ServiceError
from whistlestop.net.grpc import status

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from whistlestop.net.grpc.hpack import Field

    Unary = Callable[[bytes, "Head"], Coroutine[Any, Any, bytes]]
    IsAuthenticated = Callable[["Head"], Coroutine[Any, Any, bool]]
    Peek = Callable[["Head"], bool | None]
    Streaming = Callable[["MessageStream"], Coroutine[Any, Any, None]]

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_BAD_VALUE = re.compile(rb"[\x00\r\n]")
_LENGTH = re.compile(r"[0-9]{1,18}")
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
# Connection-specific headers, for which HTTP/2 has frames instead (RFC 9113, 8.2.2).
_OF_CONNECTIONS = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_OF_TRANSPORT = frozenset(("te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding"))
_CONTENT_TYPE = re.compile(r"application/grpc(\+proto)?\s*(;.*)?", re.IGNORECASE)


class MessageStream(Protocol):
    """The streaming handler's view of a call: iterate over it for messages, `send` answers, return or raise to end."""

    @property
    def head(self) -> Head:
        """The call's head."""
        ...

    def __aiter__(self) -> MessageStream: ...

    async def __anext__(self) -> bytes: ...

    async def send(self, message: bytes) -> None:
        """Send one message; return when it has been passed to the transport."""
        ...


class Method:
    """How calls of one path are answered: by a unary handler, a streaming handler, or an error."""

    __slots__ = (
        "is_authenticated",
        "most",
        "name",
        "peek",
        "public",
        "refusal",
        "streaming",
        "streams_requests",
        "unary",
    )

    def __init__(
        self, name: str, unary: Unary | None = None, streaming: Streaming | None = None, *,
        is_authenticated: IsAuthenticated | None = None, peek: Peek | None = None, public: bool = False,
        most: int | None = None, streams_requests: bool = True,
        refusal: ServiceError | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.unary = unary
        self.streaming = streaming
        self.is_authenticated = is_authenticated
        """Returns whether the caller is authenticated, before any of a request is buffered. None: no authentication."""
        self.peek = peek
        """Like `is_authenticated`, without waiting; returns None if it cannot tell without waiting."""
        self.public = public
        """Needs no authentication; calls count towards the budget for unauthenticated callers."""
        self.most = most
        """Maximum bytes of a message, if less than the server's limit."""
        self.streams_requests = streams_requests
        """Whether a streaming method takes more than one message."""
        self.refusal = refusal
        """The error with which calls are refused as soon as their headers arrive."""


class Head:
    """The headers of a call. If `refusal` (a header block) is set, it is the answer, and the call does not begin."""

    __slots__ = (
        "accepts_gzip",
        "authenticated_until",
        "binary",
        "content_length",
        "gzipped",
        "headers",
        "method",
        "path",
        "refusal",
        "timeout_s",
    )  # fmt: skip

    def __init__(self, path: str, method: Method | None) -> None:
        self.path = path
        self.method = method
        self.timeout_s: float | None = None
        self.content_length: int | None = None
        self.gzipped = False
        self.accepts_gzip = False
        self.headers: Mapping[str, str] = _NOTHING
        """Metadata, names in lower case; binary values are in `binary`."""
        self.binary: Mapping[str, bytes] = _NO_BYTES
        self.refusal: bytes | None = None
        self.authenticated_until = 0.0
        """The caller counts as authenticated until this time (of the event loop)."""


_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_NO_BYTES: Final[Mapping[str, bytes]] = MappingProxyType({})

MALFORMED: Final = Head("", None)
"""Stands for header fields that are not an HTTP/2 request: such a stream is reset."""


def read_head(fields: Iterable[Field], method_of: Callable[[str], Method]) -> Head:
    """Parse header fields; `method_of` returns the method of a path.

    Returns `MALFORMED` for fields that are not an HTTP/2 request, and a head with `refusal` for what is not a gRPC
    call.
    """
    pseudo: dict[bytes, bytes] = {}
    plain: dict[str, str] = {}
    for name, value in fields:
        if name[:1] == b":":
            if plain or name not in _PSEUDO or name in pseudo:
                return MALFORMED
            pseudo[name] = value
        elif _is_wellformed(name, value):
            plain[name.decode("ascii")] = value.decode("latin-1").strip(" \t")
        else:
            return MALFORMED
    if b":scheme" not in pseudo or b":method" not in pseudo or not pseudo.get(b":path"):
        return MALFORMED
    path = pseudo[b":path"].decode("latin-1")
    length = plain.get("content-length")
    if length is not None and _LENGTH.fullmatch(length) is None:
        return MALFORMED
    head = Head(path, None)
    head.content_length = None if length is None else int(length)
    head.refusal = _refusal(pseudo[b":method"], plain)
    if head.refusal is None:
        head.method = method_of(path)
        if head.method.refusal is not None:
            head.refusal = status.trailers_only(head.method.refusal)
        else:
            _take_plain(head, plain)
    return head


def are_trailers(fields: Iterable[Field]) -> bool:
    """Return whether the fields may be the trailers of a request: no pseudo-header field, none malformed."""
    return all(name[:1] != b":" and _is_wellformed(name, value) for name, value in fields)


def _is_wellformed(name: bytes, value: bytes) -> bool:
    return (
        _NAME.fullmatch(name) is not None
        and _BAD_VALUE.search(value) is None
        and name not in _OF_CONNECTIONS
        and (name != b"te" or value == b"trailers")
    )


def _refusal(verb: bytes, plain: Mapping[str, str]) -> bytes | None:
    if verb != b"POST":
        error = ServiceError(Code.INTERNAL, f"gRPC calls are POST requests, not {verb.decode('latin-1')}")
        return status.trailers_only(error, 405)
    kind = plain.get("content-type", "")
    if _CONTENT_TYPE.fullmatch(kind) is None:
        error = ServiceError(Code.INTERNAL, f'invalid gRPC request content-type "{kind}"')
        return status.trailers_only(error, 415)
    timeout = plain.get("grpc-timeout")
    if timeout is not None and status.timeout_s(timeout) is None:
        return status.trailers_only(ServiceError(Code.INTERNAL, f"malformed grpc-timeout: {timeout!r}"), 400)
    encoding = plain.get("grpc-encoding", "identity")
    if encoding not in ("identity", "gzip"):
        error = ServiceError(Code.UNIMPLEMENTED, f'grpc-encoding "{encoding}" is not supported: identity and gzip are')
        return status.unknown_encoding(error)
    return None


def _take_plain(head: Head, plain: Mapping[str, str]) -> None:
    timeout = plain.get("grpc-timeout")
    if timeout is not None:
        head.timeout_s = status.timeout_s(timeout)
    head.gzipped = plain.get("grpc-encoding") == "gzip"
    head.accepts_gzip = "gzip" in (each.strip() for each in plain.get("grpc-accept-encoding", "").split(","))
    texts: dict[str, str] = {}
    binaries: dict[str, bytes] = {}
    for name, value in plain.items():
        if name.endswith("-bin"):
            data = status.binary(value)
            if data is not None:
                binaries[name] = data
        elif name not in _OF_TRANSPORT:
            texts[name] = value
    head.headers = MappingProxyType(texts)
    head.binary = MappingProxyType(binaries)
