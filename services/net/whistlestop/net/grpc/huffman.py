"""Huffman-coded strings of HPACK (RFC 7541, section 5.2 and appendix B).

This module only decodes; our encoder writes plain strings, which peers read faster.

The code of appendix B is canonical: codes of equal length are consecutive in the order of their symbols, and longer
codes continue where shorter ones end. So the code is determined by the lengths alone. From them a binary tree is
built; the step that a whole byte takes through the tree is computed when first needed, and then cached.
"""

from __future__ import annotations

from typing import Final

# The length in bits of each symbol's code, 0 to 255 and then the end-of-string mark: runs of (length, how many).
_RUNS: Final = (
    "13 23 28x7 24 30 28x2 30 28x8 30 28x9 6 10x2 12 13 6 8 11 10x2 8 11 8 6x3 5x3 6x7 7 8 15 6 12 10 13 "
    "6 7x22 8 7 8 13 19 13 14 6 15 5 6 5 6 5 6x3 5 7x2 6x3 5 6 7 6 5x2 6 7x5 15 11 14 13 28 20 22 20x2 "
    "22x3 23 22 23x5 24 23 24x2 22 23 24 23x4 21 22 23 22 23x2 24 22 21 20 22x2 23x2 21 23 22x2 24 21 22 "
    "23x2 21x2 22 21 23 22 23x2 20 22x3 23 22x2 23 26x2 20 19 22 23 22 25 26x3 27x2 26 24 25 19 21 26 "
    "27x2 26 27 24 21x2 26x2 28 27x3 20 24 20 21 22 21x2 23 22x2 25x2 24x2 26 23 26 27 26x2 27x5 28 27x5 "
    "26 30"
)

_EOS = 256
_MAX_STEPS = 8_192
_MAX_STRINGS = 1_024
_MAX_KEPT_REQUEST = 256


class HuffmanError(ValueError):
    """The bytes are not a valid Huffman code."""


def _lengths() -> list[int]:
    lengths: list[int] = []
    for run in _RUNS.split():
        bits, _, count = run.partition("x")
        lengths += [int(bits)] * int(count or 1)
    return lengths


def _tree() -> list[list[int]]:
    """Return the nodes as [child by 0, child by 1]; a child is a node's index, or a symbol as -1 - symbol."""
    nodes = [[0, 0]]
    code = previous = 0
    for bits, symbol in sorted((bits, symbol) for symbol, bits in enumerate(_lengths())):
        code <<= bits - previous
        node = 0
        for shift in range(bits - 1, 0, -1):
            bit = code >> shift & 1
            if not nodes[node][bit]:
                nodes.append([0, 0])
                nodes[node][bit] = len(nodes) - 1
            node = nodes[node][bit]
        nodes[node][code & 1] = -1 - symbol
        previous = bits
        code += 1
    return nodes


def _padding(nodes: list[list[int]]) -> frozenset[int]:
    """Return the nodes at which a string may end: at the end of a symbol, or after at most seven one bits."""
    ends = [0]
    for _ in range(7):
        ends.append(nodes[ends[-1]][1])
    return frozenset(ends)


_NODES = _tree()
_ENDS = _padding(_NODES)
_steps: dict[int, tuple[int, bytes]] = {}
_half_steps: dict[int, tuple[int, bytes]] = {}
"""Steps of four bits: there are only some 4,000 of them, so that strings of rare codes stay cheap as well."""
_strings: dict[bytes, bytes] = {}


def _step(node: int, byte: int) -> tuple[int, bytes]:
    node, first = _half_step(node, byte >> 4)
    node, second = _half_step(node, byte & 15)
    return node, first + second


def _half_step(node: int, bits: int) -> tuple[int, bytes]:
    key = node << 4 | bits
    known = _half_steps.get(key)
    if known is not None:
        return known
    out = bytearray()
    for shift in range(3, -1, -1):
        node = _NODES[node][bits >> shift & 1]
        if node < 0:
            symbol = -1 - node
            if symbol == _EOS:
                raise HuffmanError("an end-of-string mark inside a string")
            out.append(symbol)
            node = 0
    step = _half_steps[key] = node, bytes(out)
    return step


def decode(data: bytes) -> bytes:
    """Return the decoded string. Raises HuffmanError."""
    known = _strings.get(data)
    if known is not None:
        return known
    node = 0
    pieces: list[bytes] = []
    for byte in data:
        key = node << 8 | byte
        step = _steps.get(key)
        if step is None:
            step = _step(node, byte)
            if len(_steps) < _MAX_STEPS:
                _steps[key] = step
        node, piece = step
        pieces.append(piece)
    if node not in _ENDS:
        raise HuffmanError("a string that ends within a symbol")
    plain = b"".join(pieces)
    if len(data) <= _MAX_KEPT_REQUEST:
        # Clients send the same few strings again and again: paths, above all.
        if len(_strings) >= _MAX_STRINGS:
            _strings.clear()
        _strings[data] = plain
    return plain
