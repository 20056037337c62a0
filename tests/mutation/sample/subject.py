from __future__ import annotations

STEP = 1


def count(limit: int) -> int:
    done = 0
    while done < limit:
        done += STEP
    return done


def unused(number: int) -> int:
    return number + 1


def is_many(number: int) -> bool:
    return number > 10


class Problem(ValueError):
    def __init__(self, number: int) -> None:
        super().__init__(f"{number} is wrong")
