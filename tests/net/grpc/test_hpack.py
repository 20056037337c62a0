"""Header compression against RFC 7541, appendix C, and against another implementation."""

from __future__ import annotations

import hpack as other
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whistlestop.net.grpc import huffman
from whistlestop.net.grpc.hpack import Decoder, HpackError, literal, status_line

_GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
_SECOND = [*_GET, (b"cache-control", b"no-cache")]
_THIRD = [
    (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), (b":authority", b"www.example.com"),
    (b"custom-key", b"custom-value"),
]  # fmt: skip
_DATE, _LOCATION = b"Mon, 21 Oct 2013 20:13:21 GMT", b"https://www.example.com"
_LATER = b"Mon, 21 Oct 2013 20:13:22 GMT"
_COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
_FOUND = [(b":status", b"302"), (b"cache-control", b"private"), (b"date", _DATE), (b"location", _LOCATION)]
_MOVED = [(b":status", b"307"), *_FOUND[1:]]
_FINE = [
    (b":status", b"200"), (b"cache-control", b"private"), (b"date", _LATER), (b"location", _LOCATION),
    (b"content-encoding", b"gzip"), (b"set-cookie", _COOKIE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", (b"custom-key", b"custom-header")),
        ("040c2f73616d706c652f70617468", (b":path", b"/sample/path")),
        ("100870617373776f726406736563726574", (b"password", b"secret")),
        ("82", (b":method", b"GET")),
    ],
)
def test_single_fields(block: str, expected: tuple[bytes, bytes]) -> None:
    """C.2."""
    assert Decoder().decode(bytes.fromhex(block), 1_000) == [expected]


@pytest.mark.parametrize(
    "blocks",
    [
        (
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ),
        (
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ),
    ],
)
def test_requests(blocks: tuple[str, ...]) -> None:
    """C.3 and C.4: three requests on one connection, plain and Huffman-coded."""
    decoder = Decoder()
    assert [decoder.decode(bytes.fromhex(block), 1_000) for block in blocks] == [_GET, _SECOND, _THIRD]


@pytest.mark.parametrize(
    "blocks",
    [
        (
            (
                "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768"
                "747470733a2f2f7777772e6578616d706c652e636f6d"
            ),
            "4803333037c1c0bf",
            (
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153"
                "444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e"
                "3d31"
            ),
        ),
        (
            (
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8"
                "e9ae82ae43d3"
            ),
            "4883640effc1c0bf",
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b"
                "3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
            ),
        ),
    ],
)
def test_responses_with_eviction(blocks: tuple[str, ...]) -> None:
    """C.5 and C.6: a table of 256 bytes that forgets."""
    decoder = Decoder(256)
    assert [decoder.decode(bytes.fromhex(block), 1_000) for block in blocks] == [_FOUND, _MOVED, _FINE]


@pytest.mark.parametrize(
    "block",
    [
        "80",  # index 0
        "be",  # an entry that is not there
        "40",  # ends before its name
        "400361",  # a name that ends early
        "3fe21f",  # a table larger than was agreed
        "8220",  # a table size update after a field
        "00ffffffffffffff01",  # a length of too many bytes
        "008161",  # padding of a Huffman string that is not ones
        "0084ffffffff",  # the end-of-string mark
        "0081ff01610000",  # eight bits of padding
        "ffffffffffffff",
    ],
)
def test_malformed_blocks(block: str) -> None:
    """One error type for all."""
    with pytest.raises(HpackError):
        Decoder().decode(bytes.fromhex(block), 1_000)


def test_a_list_beyond_the_limit_is_dropped_and_the_table_kept() -> None:
    """Later blocks refer to it."""
    decoder = Decoder()
    assert decoder.decode(literal(b"a", b"x" * 100), 100) is None
    assert decoder.decode(bytes.fromhex("400161") + b"\x50" + b"y" * 80, 100) is None
    assert decoder.decode(b"\xbe", 1_000) == [(b"a", b"y" * 80)]


def test_only_what_changes_the_table_counts() -> None:
    """A remembered block stays right exactly as long as the count."""
    decoder = Decoder()
    decoder.decode(b"\x82\x86" + literal(b"a", b"b"), 1_000)
    assert decoder.changes == 0
    decoder.decode(bytes.fromhex("4001610162"), 1_000)
    assert decoder.changes == 1
    decoder.decode(b"\x20", 1_000)
    assert decoder.changes == 2


_TEXT = st.binary(max_size=60)


@given(st.lists(st.lists(st.tuples(_TEXT, _TEXT), max_size=8), max_size=8), st.booleans())
def test_blocks_of_another_encoder_are_decoded(blocks: list[list[tuple[bytes, bytes]]], huffman_coded: bool) -> None:
    """Block after block, with its dynamic table."""
    encoder, decoder = other.Encoder(), Decoder()
    for block in blocks:
        assert decoder.decode(encoder.encode(block, huffman=huffman_coded), 1 << 20) == block


@given(st.lists(st.tuples(_TEXT, st.binary(max_size=700)), max_size=8))
def test_encoded_blocks_are_read_by_another_decoder(block: list[tuple[bytes, bytes]]) -> None:
    """Literals of all lengths."""
    data = status_line(200) + b"".join(literal(name, value) for name, value in block)
    decoded = other.Decoder().decode(data, raw=True)
    assert [(bytes(name), bytes(value)) for name, value in decoded] == [(b":status", b"200"), *block]


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_any_bytes_are_read_or_refused(blocks: list[bytes]) -> None:
    """With the one error."""
    decoder = Decoder()
    for block in blocks:
        try:
            decoder.decode(block, 1_000)
        except HpackError:
            return


@given(st.binary(max_size=300))
def test_huffman_strings_of_any_bytes(data: bytes) -> None:
    """Each is decoded, or is a HuffmanError."""
    try:
        huffman.decode(data)
    except huffman.HuffmanError:
        return
