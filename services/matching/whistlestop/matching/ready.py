"""The tasks of a queue that may be handed out, and in which order.

`InOrder` is that of the rows. `Fair` takes over when a task with a fairness key comes: within a priority, keys take
turns as their weights say (stride scheduling: each task that a key gets done moves its next one back by 1 / weight),
however many tasks a key has. A limit per key holds a key back, and the others go on.

Pure: the caller brings the time.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, TypeAlias

from temporalio.api.common.v1 import message_pb2 as common_pb

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.fairness import is_keyed, priority_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from whistlestop.storage.records import MatchingTask

Position: TypeAlias = tuple[int, int]
"""Level and task id: the order of rows."""

_STRIDE = 1000.0
_LEAST_WEIGHT, _MOST_WEIGHT = 0.001, 1000.0
_NEVER_NS = 1 << 62


class InOrder:
    """As the rows stand."""

    __slots__ = ("_heap",)

    def __init__(self, tasks: Iterable[MatchingTask] = ()) -> None:
        self._heap = [(task.key.priority, task.key.task_id, task) for task in tasks]
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[MatchingTask]:
        return (entry[2] for entry in self._heap)

    def push(self, task: MatchingTask) -> None:
        """It may be handed out from now on."""
        heapq.heappush(self._heap, (task.key.priority, task.key.task_id, task))

    def pop(self) -> MatchingTask:
        """The next one."""
        return heapq.heappop(self._heap)[2]

    @property
    def oldest_ns(self) -> int:
        """When the task that is next was written."""
        return self._heap[0][2].created_ns

    def keep(self, count: int) -> tuple[set[Position], Position]:
        """Drop all but the first `count`; the positions of the others, and that of the last one kept."""
        self._heap.sort(key=lambda entry: entry[:2])
        dropped = {entry[:2] for entry in self._heap[count:]}
        del self._heap[count:]
        return dropped, self._heap[-1][:2]


class _Level:
    """The tasks of one key (and priority): its own order, its weight, and when it is its turn."""

    __slots__ = ("bound", "finish", "ready_ns", "start", "tasks", "weight")

    def __init__(self) -> None:
        self.tasks: list[tuple[int, MatchingTask]] = []
        self.weight = 1.0
        self.start = 0.0
        """The pass of the first task; it has its turn when no other key's is lower."""
        self.finish = 0.0
        self.ready_ns = 0
        """Its limit holds it back until then."""
        self.bound: int | None = None
        """Tasks behind that id are in the store alone; None: all are here."""


class Fair:
    """Keys take turns."""

    __slots__ = ("_count", "_heap", "_levels", "_overrides", "_passes", "_rps", "missing", "wait_ns")

    def __init__(self, tasks: Iterable[MatchingTask] = ()) -> None:
        self._levels: dict[int, _Level] = {}
        self._heap: list[tuple[int, float, int]] = []
        """Priority, pass and level of the levels with tasks; an entry that is out of date is passed over."""
        self._passes: dict[int, float] = {}
        """By priority: the pass of what was handed out last. A key that was away does not get its turns back."""
        self._count = 0
        self._overrides: Mapping[str, float] = {}
        self._rps: float | None = None
        self.wait_ns = _NEVER_NS
        """When the limits of keys let something through again, after `pop` gave nothing."""
        self.missing = False
        """A key has used up its tasks here, and has more in the store."""
        for task in tasks:
            self.push(task)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[MatchingTask]:
        return (task for level in self._levels.values() for _, task in level.tasks)

    def configure(self, overrides: Mapping[str, float], rps: float | None) -> None:
        """Weights that hold instead of the tasks' own, and how many tasks per second a key of weight 1 gets."""
        self._overrides = dict(overrides)
        if rps != self._rps:
            self._rps = rps
            for level in self._levels.values():
                level.ready_ns = 0

    def push(self, task: MatchingTask) -> None:
        """It may be handed out from now on."""
        number = task.key.priority
        level = self._levels.get(number)
        if level is None:
            level = self._levels[number] = _Level()
        heapq.heappush(level.tasks, (task.key.task_id, task))
        self._count += 1
        if len(level.tasks) == 1:
            priority = priority_of(number)
            level.start = max(level.finish, self._passes.get(priority, 0.0))
            heapq.heappush(self._heap, (priority, level.start, number))

    def pop(self, now_ns: int) -> MatchingTask | None:
        """The next one; None while limits hold all keys back."""
        aside: list[tuple[int, float, int]] = []
        found = None
        self.wait_ns = _NEVER_NS
        while self._heap and found is None:
            entry = heapq.heappop(self._heap)
            level = self._levels[entry[2]]
            if not level.tasks or level.start != entry[1]:
                continue
            if level.ready_ns > now_ns and self._rps is not None:
                self.wait_ns = min(self.wait_ns, level.ready_ns)
                aside.append(entry)
                continue
            found = self._hand_out(entry, level, now_ns)
        for entry in aside:
            heapq.heappush(self._heap, entry)
        return found

    def _hand_out(self, entry: tuple[int, float, int], level: _Level, now_ns: int) -> MatchingTask:
        priority, start, number = entry
        _, task = heapq.heappop(level.tasks)
        self._count -= 1
        level.weight = _weight_of(task, self._overrides)
        self._passes[priority] = start
        level.finish = start + _STRIDE / level.weight
        if self._rps is not None:
            level.ready_ns = self._next_ns(level, now_ns)
        if level.tasks:
            level.start = level.finish
            heapq.heappush(self._heap, (priority, level.start, number))
        elif level.bound is not None:
            self.missing = True
        return task

    def _next_ns(self, level: _Level, now_ns: int) -> int:
        rate = (self._rps or 0.0) * level.weight
        return max(level.ready_ns, now_ns) + int(SECOND_NS / rate) if rate > 1e-9 else _NEVER_NS

    @property
    def oldest_ns(self) -> int:
        """When the oldest task was written that is some key's next."""
        return min(level.tasks[0][1].created_ns for level in self._levels.values() if level.tasks)

    # The window on the store.

    def replace(self, tasks: Iterable[MatchingTask], bounds: Mapping[int, int]) -> None:
        """Hold these tasks instead, which are all but what stands behind `bounds` (task ids, by level)."""
        self._heap, self._count, self.missing = [], 0, False
        for number, level in list(self._levels.items()):
            level.tasks, level.bound = [], None
            if level.finish <= self._passes.get(priority_of(number), 0.0) and not level.ready_ns:
                del self._levels[number]
        for task in tasks:
            self.push(task)
        for number, bound in bounds.items():
            self._levels.setdefault(number, _Level()).bound = bound

    def covers(self, position: Position) -> bool:
        """Whether a row there would be known here."""
        level = self._levels.get(position[0])
        return level is None or level.bound is None or position[1] <= level.bound

    def shrink(self) -> set[Position]:
        """Drop the later half of each key's tasks; their positions."""
        dropped: set[Position] = set()
        for number, level in self._levels.items():
            level.tasks.sort(key=lambda entry: entry[0])
            kept = (len(level.tasks) + 1) // 2
            if kept == len(level.tasks):
                continue
            dropped.update((number, task_id) for task_id, _ in level.tasks[kept:])
            del level.tasks[kept:]
            level.bound = level.tasks[-1][0]
        self._count -= len(dropped)
        return dropped


def in_drawn_order(
    tasks: Iterable[MatchingTask], overrides: Mapping[str, float], draw: Callable[[], float]
) -> list[MatchingTask]:
    """By priority; within one, keys as drawn: a key of twice the weight comes first twice as often.

    `draw` gives numbers above 0 and up to 1.
    """
    by_level: dict[int, list[MatchingTask]] = {}
    for task in tasks:
        by_level.setdefault(task.key.priority, []).append(task)
    turns = sorted(
        (priority_of(level), -math.log(draw()) / _weight_of(those[0], overrides), level)
        for level, those in by_level.items()
    )
    return [task for _, _, level in turns for task in by_level[level]]


def _weight_of(task: MatchingTask, overrides: Mapping[str, float]) -> float:
    own = common_pb.Priority()
    if is_keyed(task.key.priority):
        own.ParseFromString(task.data)
    weight = overrides.get(own.fairness_key) or own.fairness_weight or 1.0
    return min(max(weight, _LEAST_WEIGHT), _MOST_WEIGHT)
