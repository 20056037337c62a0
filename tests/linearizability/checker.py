"""Is there an order of these calls, within their call and return times, that a sequential model explains?

The search is that of Wing and Gong with Lowe's memory of what was tried, as in porcupine: take some call that began
before every other open one returned, apply it to the model, go on; where nothing fits, go back. A call whose outcome is
unknown may take effect at any time after it began, or never.

A model is a function from a state and a call to the states that may follow; none: the call's result is not possible
there. States are hashable. A call that never changes the state (`is_read`) and fits now is taken at once: that takes nothing
from any other order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

S = TypeVar("S")
O = TypeVar("O")  # noqa: E741 - an operation
MOST_STATES = 200_000


class TooManyStates(AssertionError):
    """The search was given up: the log has too many calls at the same time."""


@dataclass(frozen=True, slots=True)
class Call(Generic[O]):
    """One call: what was asked and answered, and when (any numbers that grow)."""

    operation: O
    called: float
    returned: float | None
    """None: the outcome is unknown."""


@dataclass(frozen=True, slots=True)
class Verdict(Generic[O]):
    """What the search found."""

    good: bool
    order: tuple[Call[O], ...]
    """The calls in an order that the model explains; where `good` is False, the longest such beginning."""
    stuck_at: tuple[Call[O], ...] = ()
    """The calls of which one had to come next."""


def check(
    calls: Sequence[Call[O]], initial: S, step: Callable[[S, O], Iterable[S]],
    is_read: Callable[[O], bool] | None = None,
) -> Verdict[O]:  # fmt: skip
    """Search for an order. Raises TooManyStates."""
    ordered = sorted(calls, key=lambda call: call.called)
    known = sum(1 << index for index, call in enumerate(ordered) if call.returned is not None)
    stack: list[tuple[int, S, tuple[int, ...]]] = [(0, initial, ())]
    tried: set[tuple[int, S]] = set()
    longest: tuple[tuple[int, ...], int] = ((), 0)
    while stack:
        done, state, path = stack.pop()
        if (done, state) in tried:
            continue
        tried.add((done, state))
        if len(tried) > MOST_STATES:
            raise TooManyStates(f"{len(tried)} states for {len(ordered)} calls")
        if done & known == known:
            return Verdict(True, tuple(ordered[index] for index in path))
        if len(path) > len(longest[0]) or not path:
            longest = (path, done)
        following: list[tuple[int, S, tuple[int, ...]]] = []
        for index in _candidates(ordered, done):
            states = list(step(state, ordered[index].operation))
            if ordered[index].returned is None:
                # That it did nothing here is the same as that it never took place.
                states = [each for each in states if each != state]
            after = [(done | 1 << index, each, (*path, index)) for each in states]
            if states == [state] and is_read is not None and is_read(ordered[index].operation):
                following = after
                break
            following += after
        # The call that began first is tried first.
        stack.extend(reversed(following))
    path, done = longest
    return Verdict(
        False, tuple(ordered[index] for index in path), tuple(ordered[index] for index in _candidates(ordered, done))
    )


def _candidates(ordered: Sequence[Call[O]], done: int) -> list[int]:
    """The calls that may be next: none of the others returned before they began."""
    found: list[int] = []
    first_return = float("inf")
    for index, call in enumerate(ordered):
        if done >> index & 1:
            continue
        if call.called > first_return:
            break
        found.append(index)
        if call.returned is not None and call.returned < first_return:
            first_return = call.returned
    return found
