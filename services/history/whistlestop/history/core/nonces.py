"""Nonces bind a task token to one attempt: a random number that the attempt's state and its token share.

Rules of this file:
- Each start of an attempt draws a new nonce, so that a token can neither be forged nor used for another attempt.
- Release 0.1.0 draws none, and keeps the nonce of an earlier attempt as an unknown field. So the state also records the
  start to which the nonce belongs: if that is not the last one, 0.1.0 started the attempt, and a token without a nonce
  is correct. Any other attempt only accepts its own nonce.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from whistlestop.common.ids import Ids

_LOW_32_BITS = 0xFFFF_FFFF


class Attempt(Protocol):
    """A part of the mutable state for which workers get task tokens."""

    nonce: int
    nonce_of: int


def draw(attempt: Attempt, start: int, ids: Ids) -> None:
    """Give the attempt a new nonce. `start` identifies this start: its time or its stamp."""
    attempt.nonce = ids.nonce()
    attempt.nonce_of = start & _LOW_32_BITS


def current(attempt: Attempt, start: int) -> int:
    """Return the nonce that a token of this start must have; 0 if release 0.1.0 started it."""
    return attempt.nonce if attempt.nonce_of == start & _LOW_32_BITS else 0
