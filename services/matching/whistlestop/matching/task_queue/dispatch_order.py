"""The tasks of a queue that may be dispatched, and their order.

`RowOrder` keeps the order of the rows. `FairOrder` replaces it when a task with a fairness key comes: within a
priority, keys take turns in proportion to their weights, however many tasks each has. Each key has a pass: dispatching
one of its tasks increases the pass by 1 / weight, and the key with the lowest pass is next, as in Temporal (stride
scheduling). A limit per key holds back that key only.

Memory is bounded: `FairOrder` holds what a read of the store returned (a few tasks for a limited number of keys), tasks
passed on at commit while there was room, and the passes of keys that had a task recently. It knows what it has left in
the store: `wants_read` and `short` tell when the store should be read.

Pure: the caller passes the time.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums

from whistlestop.common.fairness import priority_of
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.matching.task_queue.rate_limit import NEVER_NS, KeyRate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from whistlestop.storage.records import MatchingTask

Position: TypeAlias = tuple[int, int]
"""Level and task id: the order of rows."""

_STRIDE = 1000.0
_MIN_WEIGHT = 0.001
_NEXUS: Final = int(queue_enums.TASK_QUEUE_TYPE_NEXUS)
_ABSENT_KEYS_KEPT = 2000
"""How many keys without a task in memory keep their passes and limits."""


class RowOrder:
    """Tasks in the order of their rows."""

    __slots__ = ("_heap",)

    def __init__(self, tasks: Iterable[MatchingTask] = ()) -> None:
        self._heap = [(task.key.priority, task.key.task_id, task) for task in tasks]
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[MatchingTask]:
        return (entry[2] for entry in self._heap)

    def push(self, task: MatchingTask) -> None:
        """Add a task that may be dispatched; the same task must not be added twice."""
        heapq.heappush(self._heap, (task.key.priority, task.key.task_id, task))

    def pop(self) -> MatchingTask:
        """Remove and return the next task. Raise IndexError when there is none."""
        return heapq.heappop(self._heap)[2]

    @property
    def oldest_ns(self) -> int:
        """When the next task was written (wall clock)."""
        return self._heap[0][2].created_ns

    def keep(self, count: int) -> tuple[set[Position], Position]:
        """Keep only the first `count` tasks; return the positions of the others, and that of the last one kept."""
        self._heap.sort(key=lambda entry: entry[:2])
        dropped = {entry[:2] for entry in self._heap[count:]}
        del self._heap[count:]
        return dropped, self._heap[-1][:2]


_Turn: TypeAlias = tuple[int, float, int, int]
"""Priority, pass, task id, level: the order of turns."""


class _Level:
    """The tasks of one key and priority."""

    __slots__ = ("bound", "passed", "ready_ns", "tasks", "turn")

    def __init__(self) -> None:
        self.tasks: list[tuple[int, MatchingTask]] = []
        self.passed = 0.0
        """The pass of the task that was dispatched last."""
        self.turn: _Turn | None = None
        """The turn of its first task. Heap entries that are not this very object are out of date."""
        self.ready_ns = 0
        """Its limit holds it back until then."""
        self.bound: int | None = None
        """Tasks after this id are only in the store; None: all are in memory."""


@dataclass(frozen=True, slots=True)
class Window:
    """The rows that a read returned for a queue with fairness keys."""

    rows: Sequence[MatchingTask]
    bounds: Mapping[int, int]
    """For levels that may have more rows: the last task id among those read."""
    cursor: int | None = None
    """The level after which the next read continues; None when all keys were read."""


class FairOrder:
    """Tasks of which the fairness keys take turns."""

    __slots__ = (
        "_absent", "_count", "_heap", "_levels", "_limited", "_overrides", "_partial", "_passes", "_rate", "_turns",
        "cursor", "short", "wait_ns",
    )  # fmt: skip

    def __init__(self, tasks: Iterable[MatchingTask] = ()) -> None:
        self._levels: dict[int, _Level] = {}
        """Levels with tasks, in memory or (`bound`) in the store."""
        self._absent: OrderedDict[int, _Level] = OrderedDict()
        """Levels without tasks, the longest absent first."""
        self._heap: list[_Turn] = []
        self._limited: list[tuple[int, _Turn]] = []
        """Turns that wait for the limit of their key, by the time it ends."""
        self._passes: dict[int, float] = {}
        """By priority: the pass of the last dispatched task. A key that was absent does not catch up on missed
        turns."""
        self._count = 0
        self._overrides: Mapping[str, float] = {}
        self._rate: KeyRate | None = None
        self._partial = False
        """Whether the store may have keys that are not known here."""
        self._turns = 0
        """How many tasks are dispatched before keys outside the window get their turn."""
        self.cursor: int | None = None
        self.short: dict[int, int] = {}
        """Levels that have no tasks left in memory but more in the store, after these task ids."""
        self.wait_ns = NEVER_NS
        """When the key limits allow another task, after `pop` returned None."""
        for task in tasks:
            self.push(task)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[MatchingTask]:
        return (task for level in self._levels.values() for _, task in level.tasks)

    def configure(self, overrides: Mapping[str, float], rate: KeyRate | None) -> None:
        """Set the weights that override the tasks' own, and the rate limit of keys (None: no limit)."""
        if overrides != self._overrides:
            self._overrides = dict(overrides)
            for number, level in self._levels.items():
                if level.tasks:
                    self._take_turn(number, level)
        if rate == self._rate:
            return
        self._rate = rate
        for level in (*self._levels.values(), *self._absent.values()):
            level.ready_ns = 0
        self._heap += (turn for _, turn in self._limited)
        heapq.heapify(self._heap)
        self._limited = []

    # Incoming tasks.

    def push(self, task: MatchingTask) -> None:
        """Add a task that may be dispatched; the same task must not be added twice."""
        number = task.key.priority
        level = self._levels.get(number)
        if level is None:
            level = self._activate(number)
        heapq.heappush(level.tasks, (task.key.task_id, task))
        self._count += 1
        if level.tasks[0][1] is task:
            self._take_turn(number, level)

    def _take_turn(self, number: int, level: _Level) -> None:
        priority = priority_of(number)
        task_id, task = level.tasks[0]
        turn = max(self._passes.get(priority, 0.0), level.passed + _stride(weight_of(task, self._overrides)))
        level.turn = (priority, turn, task_id, number)
        heapq.heappush(self._heap, level.turn)

    def leave_in_store(self, task: MatchingTask) -> None:
        """Leave the task in the store, for lack of room."""
        level = self._levels.get(task.key.priority)
        if level is None or not level.tasks:
            self._partial = True
        elif level.bound is None:
            level.bound = max(task_id for task_id, _ in level.tasks)

    def covers(self, position: Position) -> bool:
        """Return whether a row at that position belongs in memory: no earlier row of its key was left in the store."""
        level = self._levels.get(position[0])
        return level is None or level.bound is None or position[1] <= level.bound

    def give_back(self, task: MatchingTask) -> None:
        """Return the turn of a task that was not started to its key."""
        number = task.key.priority
        level = self._levels.get(number) or self._absent.get(number)
        if level is None:
            return
        weight = weight_of(task, self._overrides)
        level.passed -= _stride(weight)
        if self._rate is not None:
            level.ready_ns = self._rate.returned(level.ready_ns, weight)
        if level.tasks:
            self._take_turn(number, level)

    def delay_key(self, task: MatchingTask, until_ns: int) -> None:
        """Put back a task whose key's limit is used up by other processes until `until_ns`."""
        self.give_back(task)
        self.push(task)
        level = self._levels[task.key.priority]
        level.ready_ns = max(level.ready_ns, until_ns)

    # Outgoing tasks.

    def pop(self, now_ns: int) -> MatchingTask | None:
        """Remove and return the next task; None when there is none, or while limits hold all keys back."""
        self.wait_ns = NEVER_NS
        if self._rate is not None and self._rate.paused:
            return None
        while self._limited and self._limited[0][0] <= now_ns:
            heapq.heappush(self._heap, heapq.heappop(self._limited)[1])
        while self._heap:
            turn = heapq.heappop(self._heap)
            level = self._levels.get(turn[3])
            if level is None or level.turn is not turn:
                continue
            if self._rate is not None and level.ready_ns > now_ns:
                heapq.heappush(self._limited, (level.ready_ns, turn))
                continue
            return self._hand_out(turn, level, now_ns)
        if self._limited:
            self.wait_ns = self._limited[0][0]
        return None

    def _hand_out(self, turn: _Turn, level: _Level, now_ns: int) -> MatchingTask:
        priority, level.passed, _, number = turn
        _, task = heapq.heappop(level.tasks)
        self._count -= 1
        self._turns -= 1
        self._passes[priority] = max(level.passed, self._passes.get(priority, 0.0))
        if self._rate is not None:
            level.ready_ns = self._rate.spent(level.ready_ns, now_ns, weight_of(task, self._overrides))
        if level.tasks:
            self._take_turn(number, level)
            return task
        level.turn = None
        if level.bound is not None:
            self.short[number] = level.bound
        else:
            self._mark_absent(number, level)
        return task

    def _activate(self, number: int) -> _Level:
        level = self._levels[number] = self._absent.pop(number) if number in self._absent else _Level()
        return level

    def _mark_absent(self, number: int, level: _Level) -> None:
        del self._levels[number]
        self._absent[number] = level
        if len(self._absent) > _ABSENT_KEYS_KEPT:
            self._absent.popitem(last=False)

    @property
    def oldest_ns(self) -> int:
        """When the next task (or the next one held back) was written."""
        turn = self._heap[0] if self._heap else self._limited[0][1]
        level = self._levels.get(turn[3])
        if level is None or not level.tasks:
            level = next(level for level in self._levels.values() if level.tasks)
        return level.tasks[0][1].created_ns

    # The window on the store.

    @property
    def wants_read(self) -> bool:
        """Whether keys outside the window should get their turn."""
        return self._partial and self._turns <= 0

    def replace(self, tasks: Iterable[MatchingTask], window: Window) -> None:
        """Replace all tasks by those of the window, adjusted for what changed while it was read."""
        for number, level in list(self._levels.items()):
            level.tasks, level.bound, level.turn = [], None, None
            self._mark_absent(number, level)
        self._heap, self._limited, self._count, self.short = [], [], 0, {}
        for number, bound in window.bounds.items():
            self._activate(number).bound = bound
        for task in tasks:
            self.push(task)
        self.short = {number: bound for number, bound in window.bounds.items() if not self._levels[number].tasks}
        self.cursor, self._partial, self._turns = window.cursor, window.cursor is not None, len(self._levels)

    def refill(self, number: int, tasks: Iterable[MatchingTask], bound: int | None) -> None:
        """Add tasks to a level that had run out; `bound` is the last id read, or None when the store has no more."""
        self.short.pop(number, None)
        level = self._levels.get(number)
        if level is None:
            level = self._activate(number)
        level.bound = bound
        for task in tasks:
            self.push(task)
        if level.tasks:
            return
        if bound is not None:
            self.short[number] = bound
        else:
            self._mark_absent(number, level)

    def note_unread_rows(self) -> None:
        """Note that the store may hold tasks that belong in memory."""
        self._partial = True

    @property
    def levels(self) -> int:
        """The number of keys (per priority) with tasks."""
        return len(self._levels)

    @property
    def whole(self) -> bool:
        """Whether all tasks of the store are in memory."""
        return not self._partial and all(level.bound is None for level in self._levels.values())


def in_random_order(
    tasks: Iterable[MatchingTask], overrides: Mapping[str, float], draw: Callable[[], float]
) -> list[MatchingTask]:
    """Return the tasks by priority, and within a priority with the fairness keys in random order.

    A key of twice the weight is twice as likely to be first. `draw` returns random numbers above 0 and up to 1.
    """
    by_level: dict[int, list[MatchingTask]] = {}
    for task in tasks:
        by_level.setdefault(task.key.priority, []).append(task)
    turns = sorted(
        (priority_of(level), -math.log(draw()) / weight_of(those[0], overrides), level)
        for level, those in by_level.items()
    )
    return [task for _, _, level in turns for task in by_level[level]]


def weight_of(task: MatchingTask, overrides: Mapping[str, float]) -> float:
    """Return the weight that is set for the task's key, or else the task's own.

    It is 1.0 where neither is set, or the task cannot be read.
    """
    if not task.data or task.key.task_type == _NEXUS:
        return 1.0
    try:
        own = common_pb.Priority.FromString(task.data)
    except DecodeError:
        return 1.0  # The task is damaged; it is handled when it is started.
    weight = overrides.get(own.fairness_key) or own.fairness_weight
    return max(weight, _MIN_WEIGHT) if weight > 0 else 1.0


def _stride(weight: float) -> float:
    """Return Temporal's whole-number stride; keys with equal passes take turns in the order of their tasks."""
    # Weights are single-precision: 1000 / 0.1 is 9999.99985 in double.
    return max(1.0, math.floor(round(_STRIDE / weight, 3)))
