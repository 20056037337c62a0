"""Calls over raw frames: answers, errors, metadata, deadlines, cancellation, compression, streams."""

from __future__ import annotations

import asyncio
import base64
import gzip
from typing import TYPE_CHECKING

import pytest
from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from tests.net.grpc.peer import Answer, Peer, message, request_fields
from tests.patience import PATIENCE_S
from whistlestop.common.errors import not_found
from whistlestop.net.grpc import frames
from whistlestop.net.grpc.limits import Limits
from whistlestop.net.rpc_status import error_from_status

if TYPE_CHECKING:
    from tests.net.grpc.conftest import Start, Toy
    from whistlestop.net.grpc.head import Head


async def _echoed(peer: Peer, data: bytes = b"hello") -> bool:
    answer = await peer.answer(peer.call("/toy/Echo", data))
    return answer.messages == [data] and answer.status == ("0", None)


async def test_a_unary_answer(peer: Peer) -> None:
    """Headers, one message, trailers."""
    answer = await peer.answer(peer.call("/toy/Echo", b"hello"))
    assert answer == Answer(
        [{":status": "200", "content-type": "application/grpc"}, {"grpc-status": "0"}], message(b"hello"), None
    )


async def test_a_reply_leaves_in_one_write_once_connected(peer: Peer) -> None:
    """One packet, three frames."""
    assert await _echoed(peer)
    peer.call("/toy/Echo", b"x")
    packet = await asyncio.wait_for(peer.reader.read(65_536), PATIENCE_S)
    assert packet == (
        frames.frame(frames.HEADERS, frames.END_HEADERS, 3, b"\x88\x00\x0ccontent-type\x10application/grpc")
        + frames.frame(frames.DATA, 0, 3, message(b"x"))
        + frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 3, b"\x00\x0bgrpc-status\x010")
    )


async def test_many_calls_at_once(peer: Peer) -> None:
    """Each answered on its own stream."""
    streams = [peer.call("/toy/Echo", b"%d" % number) for number in range(500)]
    for number, stream in enumerate(streams):
        assert (await peer.answer(stream)).messages == [b"%d" % number]


@pytest.mark.parametrize("cut", range(1, 12))
async def test_a_request_in_pieces(peer: Peer, cut: int) -> None:
    """However the bytes arrive, and however DATA is framed, padded, and ended."""
    stream = peer.headers("/toy/Echo")
    body = message(b"hello there")
    peer.frame(frames.DATA, frames.PADDED, stream, b"\x03" + body[:cut] + b"pad")
    tail = frames.frame(frames.DATA, 0, stream, body[cut:]) + frames.frame(frames.DATA, frames.END_STREAM, stream)
    for at in range(0, len(tail), cut):
        peer.send(tail[at : at + cut])
        await peer.writer.drain()
        await asyncio.sleep(0)
    assert (await peer.answer(stream)).messages == [b"hello there"]


async def test_headers_with_padding_priority_and_continuation(peer: Peer, toy: Toy) -> None:
    """All that a header block may come wrapped in."""
    block = peer.encoder.encode(request_fields("/toy/Echo", one="1"))
    peer.frame(frames.HEADERS, frames.PADDED | frames.WITH_PRIORITY, 1, b"\x02" + bytes(5) + block[:7] + b"pp")
    peer.frame(frames.CONTINUATION, 0, 1, block[7:9])
    peer.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[9:])
    peer.frame(frames.DATA, frames.END_STREAM, 1, message(b"x"))
    assert (await peer.answer(1)).messages == [b"x"]
    assert toy.heads[0].headers["one"] == "1"


async def test_request_trailers_end_a_request(peer: Peer) -> None:
    """What they say is dropped."""
    stream = peer.headers("/toy/Echo")
    peer.frame(frames.DATA, 0, stream, message(b"x"))
    block = peer.encoder.encode([("trailing", "yes")])
    peer.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, block)
    assert (await peer.answer(stream)).messages == [b"x"]


async def test_metadata(peer: Peer, toy: Toy) -> None:
    """Text and bytes apart; what belongs to the transport is left out."""
    stream = peer.call(
        "/toy/Echo", client_name="test", token_bin=base64.b64encode(b"\x00\xff\x01\x02").decode().rstrip("="),
        grpc_timeout="5S", grpc_accept_encoding="identity, gzip",
    )  # fmt: skip
    await peer.answer(stream)
    head: Head = toy.heads[0]
    assert (dict(head.headers), dict(head.binary), head.timeout_s, head.accepts_gzip) == (
        {"client-name": "test"}, {"token-bin": b"\x00\xff\x01\x02"}, 5.0, True,
    )  # fmt: skip


async def test_heads_are_read_again_when_the_table_moves(peer: Peer, toy: Toy) -> None:
    """The same block may mean something else later."""
    for value in ("a", "b", "a", "c", "c", "c"):
        await peer.answer(peer.call("/toy/Echo", changing=value, fixed="f"))
    assert [head.headers["changing"] for head in toy.heads] == ["a", "b", "a", "c", "c", "c"]
    assert toy.heads[-1] is toy.heads[-2]


@pytest.mark.parametrize(
    ("text", "encoded"), [("plain", "plain"), ("50% of ümläut\n", "50%25 of %C3%BCml%C3%A4ut%0A"), ("", None)]
)
async def test_errors_are_one_block(peer: Peer, text: str, encoded: str | None) -> None:
    """Trailers only, the message percent-encoded."""
    answer = await peer.answer(peer.call("/toy/Fail", text.encode()))
    assert (answer.status, answer.data, len(answer.headers)) == (("5", encoded), b"", 1)


async def test_details_are_unpadded_base64(peer: Peer, toy: Toy) -> None:
    """As SDKs read them."""

    async def refuse(data: bytes, head: Head) -> bytes:
        raise not_found("gone")

    toy.method("/toy/Fail").unary = refuse
    answer = await peer.answer(peer.call("/toy/Fail"))
    text = answer.headers[0]["grpc-status-details-bin"]
    assert not text.endswith("=")
    error = error_from_status(base64.b64decode(text + "=" * (-len(text) % 4)))
    assert (error.message, error.details) == ("gone", (details_pb.NotFoundFailure(),))


async def test_an_internal_error_reveals_nothing_to_the_caller(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """But the log."""
    assert (await peer.answer(peer.call("/toy/Bug"))).status == ("13", "internal error")
    assert "a secret" in caplog.text


async def test_a_long_message_is_cut(peer: Peer) -> None:
    """Trailers fit into one frame, and into what clients accept."""
    answer = await peer.answer(peer.call("/toy/Fail", b"x" * 40_000))
    assert answer.status == ("5", "x" * 3_985 + "... <truncated>")


async def test_an_unknown_path(peer: Peer) -> None:
    """Asks the service for words."""
    assert (await peer.answer(peer.call("/toy/Nope"))).status == ("12", "no /toy/Nope")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", ("13", "grpc: a unary request with no message")),
        (b"\x00\x00", ("13", "grpc: a message prefix that ends early")),
        (message(b"abc")[:-1], ("13", "grpc: a message that ends early")),
        (message(b"abc") + b"\x00", ("13", "grpc: a unary request with two messages")),
        (message(b"abc") * 2, ("13", "grpc: a unary request with two messages")),
        (message(b"abc", 1), ("13", "grpc: a message is flagged as compressed and no grpc-encoding is named")),
        (message(b"abc", 7), ("13", "grpc: a message is flagged as compressed and no grpc-encoding is named")),
    ],
)
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_bad_bodies(peer: Peer, body: bytes, status: tuple[str, str], in_pieces: bool) -> None:
    """An error of the call, and the connection goes on."""
    stream = peer.headers("/toy/Echo")
    if in_pieces and body:
        peer.frame(frames.DATA, 0, stream, body)
        peer.frame(frames.DATA, frames.END_STREAM, stream)
    else:
        peer.frame(frames.DATA, frames.END_STREAM, stream, body)
    assert (await peer.answer(stream)).status == status
    assert await _echoed(peer)


@pytest.mark.parametrize(
    ("fields", "http", "status"),
    [
        ({"content_type": "text/plain"}, "415", ("13", 'invalid gRPC request content-type "text/plain"')),
        (
            {"content_type": "application/grpc-web"},
            "415",
            ("13", 'invalid gRPC request content-type "application/grpc-web"'),
        ),
        ({"grpc_timeout": "soon"}, "400", ("13", "malformed grpc-timeout: 'soon'")),
        ({"grpc_timeout": "123456789S"}, "400", ("13", "malformed grpc-timeout: '123456789S'")),
        ({"grpc_encoding": "br"}, "200", ("12", 'grpc-encoding "br" is not supported: identity and gzip are')),
        ({"huge": "x" * 66_000}, "431", ("8", "the request's metadata is too large")),
    ],
)
async def test_heads_that_end_the_call(peer: Peer, fields: dict[str, str], http: str, status: tuple[str, str]) -> None:
    """Before a body is looked at."""
    stream = peer.next_stream
    peer.next_stream += 2
    block = peer.encoder.encode(request_fields("/toy/Echo", **fields))
    pieces = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
    for index, piece in enumerate(pieces):
        flags = frames.END_HEADERS if index == len(pieces) - 1 else 0
        peer.frame(frames.CONTINUATION if index else frames.HEADERS, flags, stream, piece)
    peer.frame(frames.DATA, frames.END_STREAM, stream, message(b"x"))
    answer = await peer.answer(stream)
    assert (answer.headers[0][":status"], answer.status) == (http, status)
    assert await _echoed(peer)


async def test_only_post_is_a_call(peer: Peer) -> None:
    """405."""
    block = peer.encoder.encode([(":method", "GET"), (":scheme", "http"), (":path", "/toy/Echo")])
    peer.frame(frames.HEADERS, 5, 1, block)
    assert (await peer.answer(1)).headers[0][":status"] == "405"


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc; x=y"])
async def test_content_types_of_grpc(peer: Peer, content_type: str) -> None:
    """Those of protobuf."""
    assert (await peer.answer(peer.call("/toy/Echo", b"x", content_type=content_type))).messages == [b"x"]


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_message_too_large_is_refused_by_its_prefix(start: Start, in_pieces: bool) -> None:
    """Before its bytes are there; the rest of it is not wanted."""
    peer = await Peer.greet(await start(Limits(max_message=100)))
    stream = peer.headers("/toy/Echo")
    peer.frame(frames.DATA, 0 if in_pieces else frames.END_STREAM, stream, message(bytes(101)))
    assert (await peer.answer(stream)).status == ("8", "101 is too large")
    if in_pieces:
        reset = await peer.until(lambda frame: frame.kind == frames.RST_STREAM)
        assert reset.error == frames.ErrorCode.NO_ERROR
        peer.frame(frames.DATA, frames.END_STREAM, stream, b"the rest")
    assert (await peer.answer(peer.call("/toy/Echo", b"x"))).messages == [b"x"]


async def test_gzipped_requests(peer: Peer) -> None:
    """Each message says whether it is."""
    packed = gzip.compress(b"hello" * 100)
    stream = peer.headers("/toy/Echo", grpc_encoding="gzip")
    peer.frame(frames.DATA, frames.END_STREAM, stream, message(packed, 1))
    assert (await peer.answer(stream)).messages == [b"hello" * 100]
    assert (await peer.answer(peer.call("/toy/Echo", b"plain", grpc_encoding="gzip"))).messages == [b"plain"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            b"no gzip at all",
            "grpc: the message does not decompress: Error -3 while decompressing data: incorrect header check",
        ),
        (
            gzip.compress(b"x" * 50, mtime=0)[:-3],
            "grpc: the message does not decompress: it is not one whole gzip member",
        ),
        (gzip.compress(b"x", mtime=0) * 2, "grpc: the message does not decompress: it is not one whole gzip member"),
    ],
)
async def test_broken_gzip(peer: Peer, data: bytes, text: str) -> None:
    """INTERNAL."""
    stream = peer.headers("/toy/Echo", grpc_encoding="gzip")
    peer.frame(frames.DATA, frames.END_STREAM, stream, message(data, 1))
    assert (await peer.answer(stream)).status == ("13", text)


async def test_a_gzip_bomb_is_not_unpacked(start: Start) -> None:
    """Beyond the limit."""
    peer = await Peer.greet(await start(Limits(max_message=1_000)))
    stream = peer.headers("/toy/Echo", grpc_encoding="gzip")
    peer.frame(frames.DATA, frames.END_STREAM, stream, message(gzip.compress(bytes(100_000)), 1))
    assert (await peer.answer(stream)).status == ("8", "100000 is too large")


@pytest.mark.parametrize(
    ("size", "accepts", "packed"), [(50_000, "gzip", True), (50_000, "identity", False), (256, "gzip", False)]
)
async def test_large_replies_are_gzipped_for_those_who_accept_it(
    start: Start, monkeypatch: pytest.MonkeyPatch, size: int, accepts: str, packed: bool
) -> None:
    """And are not on this machine."""
    monkeypatch.setattr("ipaddress.IPv4Address.is_loopback", False)
    peer = await Peer.greet(await start())
    answer = await peer.answer(peer.call("/toy/Big", b"%d" % size, grpc_accept_encoding=accepts))
    (data,) = answer.messages
    assert (answer.headers[0].get("grpc-encoding") == "gzip", answer.data[0] == 1) == (packed, packed)
    assert len(gzip.decompress(data) if packed else data) == size // 256 * 256


async def test_loopback_replies_are_plain(peer: Peer) -> None:
    """Bytes cost nothing there."""
    answer = await peer.answer(peer.call("/toy/Big", b"51200", grpc_accept_encoding="gzip"))
    assert [len(each) for each in answer.messages] == [51_200]


async def test_a_deadline_ends_the_handler(peer: Peer, toy: Toy) -> None:
    """DEADLINE_EXCEEDED, and the handler is cancelled."""
    answer = await peer.answer(peer.call("/toy/Hold", grpc_timeout="20m"))
    assert answer.status == ("4", "context deadline exceeded")
    await asyncio.wait_for(toy.left.wait(), PATIENCE_S)
    assert toy.held == 0


async def test_deadlines_in_any_order(peer: Peer) -> None:
    """Keep an earlier one that comes later, and forget that of a call which has ended."""
    late = peer.call("/toy/Hold", grpc_timeout="60m")
    assert (await peer.answer(peer.call("/toy/Echo", b"x", grpc_timeout="1H"))).messages == [b"x"]
    earlier = peer.call("/toy/Hold", grpc_timeout="30m")
    waiting = {late, earlier, peer.call("/toy/Hold", grpc_timeout="10m")}
    while waiting:
        ended = await peer.until(lambda frame: bool(frame.flags & frames.END_STREAM) and frame.stream in waiting)
        assert b"grpc-status\x014" in ended.payload
        waiting.remove(ended.stream)


async def test_a_deadline_counts_from_the_head(peer: Peer) -> None:
    """Not from the message, which may never come."""
    assert (await peer.answer(peer.headers("/toy/Echo", grpc_timeout="10m"))).status[0] == "4"


async def test_a_reset_cancels_the_handler(peer: Peer, toy: Toy) -> None:
    """At once, and nothing more is said about it."""
    stream = peer.call("/toy/Hold")
    await asyncio.wait_for(toy.entered.wait(), PATIENCE_S)
    peer.send(frames.rst_stream(stream, frames.ErrorCode.CANCEL))
    await asyncio.wait_for(toy.left.wait(), PATIENCE_S)
    assert toy.held == 0
    assert await _echoed(peer)


async def test_a_lost_connection_cancels_its_handlers(peer: Peer, toy: Toy) -> None:
    """Polls of a dead worker take no tasks."""
    peer.call("/toy/Hold")
    await asyncio.wait_for(toy.entered.wait(), PATIENCE_S)
    peer.writer.transport.abort()
    await asyncio.wait_for(toy.left.wait(), PATIENCE_S)


async def test_a_half_closed_connection_is_closed(peer: Peer, toy: Toy) -> None:
    """A client that writes no more is gone."""
    peer.call("/toy/Hold")
    await asyncio.wait_for(toy.entered.wait(), PATIENCE_S)
    peer.writer.write_eof()
    await asyncio.wait_for(toy.left.wait(), PATIENCE_S)


async def test_streams_of_messages(peer: Peer) -> None:
    """In turn, and ended by the client's end."""
    stream = peer.headers("/toy/Count")
    body = message(b"a") + message(b"b")
    peer.frame(frames.DATA, 0, stream, body[:8])
    peer.frame(frames.DATA, 0, stream, body[8:])
    peer.frame(frames.DATA, frames.END_STREAM, stream, message(b"c"))
    answer = await peer.answer(stream)
    assert (answer.messages, answer.status) == ([b"1:a", b"2:b", b"3:c"], ("0", None))


async def test_a_stream_of_too_many_messages(peer: Peer) -> None:
    """The handler is given no more than it can hold."""
    stream = peer.headers("/toy/Count")
    peer.frame(frames.DATA, 0, stream, message(b"") * 1_500)
    assert (await peer.answer(stream)).status == ("8", "grpc: more messages than the handler reads")
