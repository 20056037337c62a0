"""FarmHash's Fingerprint32, from which Temporal derives decisions that must not change between calls or releases.

It decides which workflow ids are in a ramp and how much a schedule's time is put off by jitter, so both are the same
here as on Temporal. Written from the published algorithm (farmhashmk); `docs/decisions/0015-farmhash.md` says why no
library is used.
"""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_C1 = 0xCC9E2D51
_C2 = 0x1B873593
_ADD = 0xE6546B64


def _turn(value: int, shift: int) -> int:
    return ((value >> shift) | (value << (32 - shift))) & _MASK


def _fetch(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _mix(h: int) -> int:
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _MASK
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & _MASK
    return h ^ (h >> 16)


def _scramble(a: int) -> int:
    return (_turn(a * _C1 & _MASK, 17) * _C2) & _MASK


def _step(h: int) -> int:
    return (_turn(h, 19) * 5 + _ADD) & _MASK


def _mur(a: int, h: int) -> int:
    return _step(h ^ _scramble(a))


def fingerprint32(data: bytes) -> int:
    """Return the fingerprint of the bytes, 0 <= fingerprint < 2**32, which never changes between releases."""
    size = len(data)
    if size <= 4:
        return _short(data)
    if size <= 12:
        a, b, c = size + _fetch(data, 0), size * 5 + _fetch(data, size - 4), 9 + _fetch(data, (size >> 1) & 4)
        return _mix(_mur(c & _MASK, _mur(b & _MASK, _mur(a & _MASK, size * 5))))
    if size <= 24:
        return _middle(data)
    return _long(data)


def _short(data: bytes) -> int:
    b, c = 0, 9
    for byte in data:
        b = (b * _C1 + (byte - 256 if byte > 127 else byte)) & _MASK
        c ^= b
    return _mix(_mur(b, _mur(len(data), c)))


def _middle(data: bytes) -> int:
    size = len(data)
    a, b, c = _fetch(data, (size >> 1) - 4), _fetch(data, 4), _fetch(data, size - 8)
    d, e, f = _fetch(data, size >> 1), _fetch(data, 0), _fetch(data, size - 4)
    h = (d * _C1 + size) & _MASK
    a = (_turn(a, 12) + f) & _MASK
    h = (_mur(c, h) + a) & _MASK
    a = (_turn(a, 3) + c) & _MASK
    h = (_mur(e, h) + a) & _MASK
    a = (_turn((a + f) & _MASK, 12) + d) & _MASK
    return _mix((_mur(b, h) + a) & _MASK)


def _long(data: bytes) -> int:
    size = len(data)
    g = f = (_C1 * size) & _MASK
    h = _step(_step(size ^ _scramble(_fetch(data, size - 4))) ^ _scramble(_fetch(data, size - 16)))
    g = _step(_step(g ^ _scramble(_fetch(data, size - 8))) ^ _scramble(_fetch(data, size - 12)))
    f = (_turn((f + _scramble(_fetch(data, size - 20))) & _MASK, 19) + 113) & _MASK
    for at in range(0, (size - 1) // 20 * 20, 20):
        a, b, c, d, e = (_fetch(data, at + offset) for offset in (0, 4, 8, 12, 16))
        h, g, f = (h + a) & _MASK, (g + b) & _MASK, (f + c) & _MASK
        h = (_mur(d, h) + e) & _MASK
        g = (_mur(c, g) + a) & _MASK
        f = (_mur((b + e * _C1) & _MASK, f) + d) & _MASK
        f = (f + g) & _MASK
        g = (g + f) & _MASK
    for shift in (11, 17):
        g = (_turn(g, shift) * _C1) & _MASK
        f = (_turn(f, shift) * _C1) & _MASK
    h = (_turn(_step((h + g) & _MASK), 17) * _C1) & _MASK
    return (_turn(_step((h + f) & _MASK), 17) * _C1) & _MASK
