"""The hash that decides who is in a ramp: figures of FarmHash itself, one for each way that a length takes."""

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


def test_a_share_of_the_ids_is_in_a_ramp_and_stays_in_a_larger_one() -> None:
    ids = [f"order-{number}" for number in range(2000)]
    small, large = ({each for each in ids if in_ramp(each, share)} for share in (20, 60))
    assert small < large
    assert (350 < len(small) < 450, 1100 < len(large) < 1300) == (True, True)
    assert not any(in_ramp(each, 0) for each in ids)
    assert all(in_ramp(each, 100) for each in ids)
