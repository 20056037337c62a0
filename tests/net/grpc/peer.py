"""A client that speaks frames, so that tests can say exactly what goes over the wire, legal or not."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import hpack

from tests.patience import PATIENCE_S
from whistlestop.net.grpc import frames

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def error(self) -> int:
        """The code of RST_STREAM or GOAWAY."""
        return int.from_bytes(self.payload[4:8] if self.kind == frames.GOAWAY else self.payload[:4], "big")


@dataclass
class Answer:
    headers: list[dict[str, str]] = field(default_factory=list)
    data: bytes = b""
    reset: int | None = None

    @property
    def messages(self) -> list[bytes]:
        found, rest = [], self.data
        while rest:
            size = int.from_bytes(rest[1:5], "big")
            found.append(rest[5 : 5 + size])
            rest = rest[5 + size :]
        return found

    @property
    def status(self) -> tuple[str | None, str | None]:
        last = self.headers[-1]
        return last.get("grpc-status"), last.get("grpc-message")


def message(data: bytes, flag: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return struct.pack(">BI", flag, len(data)) + data


def request_fields(path: str, **more: str) -> list[tuple[str, str]]:
    fields = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "test", "te": "trailers",
        "content-type": "application/grpc",
    }  # fmt: skip
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    return list(fields.items())


class Peer:
    """One raw connection."""

    opened: ClassVar[list[Peer]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.append(self)
        self.reader = reader
        self.writer = writer
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.next_stream = 1

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @classmethod
    async def greet(cls, port: int, *settings: tuple[int, int]) -> Self:
        """Connected, and both sides' settings are in force."""
        peer = cls(*await asyncio.open_connection("127.0.0.1", port))
        peer.send(frames.PREFACE + frames.settings(settings))
        await peer.until(lambda frame: frame.kind == frames.SETTINGS and bool(frame.flags & frames.ACK))
        peer.send(frames.SETTINGS_ACK)
        return peer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def frame(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self.send(frames.frame(kind, flags, stream, payload))

    def headers(self, path: str, **more: str) -> int:
        """Open a stream."""
        stream = self.next_stream
        self.next_stream += 2
        block = self.encoder.encode(request_fields(path, **more))
        self.frame(frames.HEADERS, frames.END_HEADERS, stream, block)
        return stream

    def call(self, path: str, data: bytes = b"", **more: str) -> int:
        """A whole unary request."""
        stream = self.headers(path, **more)
        body = message(data)
        while len(body) > frames.MIN_FRAME_LIMIT:
            self.frame(frames.DATA, 0, stream, body[: frames.MIN_FRAME_LIMIT])
            body = body[frames.MIN_FRAME_LIMIT :]
        self.frame(frames.DATA, frames.END_STREAM, stream, body)
        return stream

    async def read(self) -> Frame | None:
        """The next frame, or None at the end of the connection."""
        try:
            head = await asyncio.wait_for(self.reader.readexactly(9), PATIENCE_S)
            payload = await asyncio.wait_for(self.reader.readexactly(int.from_bytes(head[:3], "big")), PATIENCE_S)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return Frame(head[3], head[4], int.from_bytes(head[5:9], "big"), payload)

    async def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        while True:
            frame = await self.read()
            assert frame is not None, "the connection ended"
            if wanted(frame):
                return frame

    async def answer(self, stream: int) -> Answer:
        """All of a stream's answer."""
        answer = Answer()
        while True:
            frame = await self.read()
            assert frame is not None, "the connection ended"
            if frame.stream != stream:
                continue
            if frame.kind == frames.HEADERS:
                block = frame.payload
                while not frame.flags & frames.END_HEADERS:
                    frame = await self.read()
                    assert frame is not None
                    assert (frame.kind, frame.stream) == (frames.CONTINUATION, stream)
                    block += frame.payload
                    if frame.flags & frames.END_HEADERS:
                        break
                answer.headers.append({_text(n): _text(v) for n, v in self.decoder.decode(block)})
                if "grpc-status" in answer.headers[-1]:
                    return answer
            elif frame.kind == frames.DATA:
                answer.data += frame.payload
            elif frame.kind == frames.RST_STREAM:
                answer.reset = frame.error
                return answer

    async def ended(self) -> int | None:
        """The code of GOAWAY before the connection's end; None without one."""
        code = None
        while (frame := await self.read()) is not None:
            if frame.kind == frames.GOAWAY:
                code = frame.error
        return code

    async def ping(self) -> None:
        """All that was sent before has been looked at."""
        self.frame(frames.PING, 0, 0, b"are here")
        await self.until(lambda frame: frame.kind == frames.PING and frame.payload == b"are here")

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
