"""FarmHash's fingerprint against values of its reference implementation, on both sides of each length that it treats
differently."""

from __future__ import annotations

import pytest

from whistlestop.common.fingerprint import fingerprint32
from whistlestop.common.versioning.deployments import in_ramp


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("", 3696677242),
        ("a", 1016544589),
        ("abé", 2712379441),
        ("hello", 2039911270),
        ("hello world!", 1030428963),
        ("order-12345678", 1527874703),
        ("abcdefghijklmnopqrstuvwx", 222712484),
        ("abcdefghijklmnopqrstuvwxy", 1851954435),
        ("012345678901234567890123456789012345678901234567890123456789-end", 3402295193),
    ],
)
def test_fingerprints_are_farmhash_s(text: str, known: int) -> None:
    assert fingerprint32(text.encode()) == known


RISING = {
    0: 3696677242, 1: 3232311124, 4: 1634603314, 5: 4268636116, 8: 3943682774, 12: 3728928540, 13: 894896735, 20: 8478106,
    24: 2136966592, 25: 722474157, 40: 193898150, 41: 4256423620, 60: 2674372113, 61: 742158809, 200: 2504833043,
}  # fmt: skip
FALLING = {
    1: 495582926, 3: 1506713833, 4: 717942210, 12: 466182406, 13: 2213515666, 24: 2245931127, 25: 1108917631,
    64: 4084803613,
}  # fmt: skip
"""By length. The bytes count up from 0, or down from 255 (those above 127 are negative in the shortest inputs)."""


def test_every_length_is_hashed_as_by_farmhash() -> None:
    assert {size: fingerprint32(bytes(range(size))) for size in RISING} == RISING
    assert {size: fingerprint32(bytes(range(255, 255 - size, -1))) for size in FALLING} == FALLING


def test_a_share_of_the_ids_is_in_a_ramp_and_stays_in_a_larger_one() -> None:
    ids = [f"order-{number}" for number in range(2000)]
    small, large = ({each for each in ids if in_ramp(each, share)} for share in (20, 60))
    assert small < large
    assert (350 < len(small) < 450, 1100 < len(large) < 1300) == (True, True)
    assert not any(in_ramp(each, 0) for each in ids)
    assert all(in_ramp(each, 100) for each in ids)
