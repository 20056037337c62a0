"""FarmHash's 32-bit fingerprint (the portable `mk` variant) of inputs longer than 24 bytes.

Temporal derives jitter from it, so a schedule has the same times on this server as on Temporal's.
"""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_C1 = 0xCC9E2D51
_C2 = 0x1B873593
_ADD = 0xE6546B64


def fingerprint32(data: bytes) -> int:
    """Return the fingerprint. Raise ValueError for 24 bytes or less, which no caller has."""
    size = len(data)
    if size <= 24:
        raise ValueError("only inputs longer than 24 bytes are supported")

    def word(at: int) -> int:
        return int.from_bytes(data[at : at + 4], "little")

    def tail(back: int) -> int:
        return _rotate(word(size - back) * _C1 & _MASK, 17) * _C2 & _MASK

    h, g = size, _C1 * size & _MASK
    f = g
    h = _stir(_stir(h ^ tail(4)) ^ tail(16))
    g = _stir(_stir(g ^ tail(8)) ^ tail(12))
    f = (_rotate((f + tail(20)) & _MASK, 19) + 113) & _MASK
    for at in range(0, (size - 1) // 20 * 20, 20):
        a, b, c, d, e = (word(at + step) for step in (0, 4, 8, 12, 16))
        h = (_mur(d, (h + a) & _MASK) + e) & _MASK
        g = (_mur(c, (g + b) & _MASK) + a) & _MASK
        f = (_mur((b + e * _C1) & _MASK, (f + c) & _MASK) + d) & _MASK
        f = (f + g) & _MASK
        g = (g + f) & _MASK
    g = _rotate(_rotate(g, 11) * _C1 & _MASK, 17) * _C1 & _MASK
    f = _rotate(_rotate(f, 11) * _C1 & _MASK, 17) * _C1 & _MASK
    h = _rotate(_stir((h + g) & _MASK), 17) * _C1 & _MASK
    return _rotate(_stir((h + f) & _MASK), 17) * _C1 & _MASK


def _rotate(value: int, by: int) -> int:
    return (value >> by | value << (32 - by)) & _MASK


def _stir(value: int) -> int:
    return (_rotate(value, 19) * 5 + _ADD) & _MASK


def _mur(a: int, h: int) -> int:
    a = _rotate(a * _C1 & _MASK, 17) * _C2 & _MASK
    return _stir(h ^ a)
