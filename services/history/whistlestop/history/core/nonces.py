"""What makes a task token of one attempt: a random number that the attempt's state and its token share.

Rules of this file:
- Each start of an attempt draws a new nonce, so that a token can neither be made up nor be used for another attempt.
- 0.1.0 draws none, and keeps the nonce of an earlier attempt as a field that it does not know. So the state also says
  which start the nonce is of: if that is not the last one, 0.1.0 handed the attempt out, and a token without a nonce is
  the right one. Any other attempt takes nothing but its own nonce.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from whistlestop.common.ids import Ids

_LOW_32_BITS = 0xFFFF_FFFF


class Attempt(Protocol):
    """A part of the mutable state that a worker may be given a token for."""

    nonce: int
    nonce_of: int


def draw(attempt: Attempt, start: int, ids: Ids) -> None:
    """Give the attempt a new nonce. `start` tells this start from others: its time or its stamp."""
    attempt.nonce = ids.nonce()
    attempt.nonce_of = start & _LOW_32_BITS


def current(attempt: Attempt, start: int) -> int:
    """The nonce that the token of this start has to have; 0 where 0.1.0 handed it out."""
    return attempt.nonce if attempt.nonce_of == start & _LOW_32_BITS else 0
