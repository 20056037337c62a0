"""The tasks of a queue that may be handed out, and in which order.

`InOrder` is that of the rows. `Fair` takes over when a task with a fairness key comes: within a priority, keys take
turns as their weights say, however many tasks a key has. Each key has a pass: handing out one of its tasks moves the
pass on by 1 / weight, and the lowest pass is next, as in Temporal (stride scheduling). A limit per key holds a key
back, and the others go on.

Bounded in memory: `Fair` holds what a look at the store brought (a few tasks of each of so many keys), what was offered
while there was room, and the passes of the keys that had a task lately. What it leaves in the store it knows to be
there: `wants_read` and `short` say when somebody has to look.

Pure: the caller brings the time.
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
from whistlestop.matching.rate_limit import NEVER_NS, KeyRate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from whistlestop.storage.records import MatchingTask

Position: TypeAlias = tuple[int, int]
"""Level and task id: the order of rows."""

_STRIDE = 1000.0
_LEAST_WEIGHT = 0.001
_NEXUS: Final = int(queue_enums.TASK_QUEUE_TYPE_NEXUS)
_KEYS_IN_MIND = 2000
"""Keys without a task here whose passes and limits are remembered."""


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


_Turn: TypeAlias = tuple[int, float, int, int]
"""Priority, pass, task id, level: the order of turns."""


class _Level:
    """The tasks of one key (and priority)."""

    __slots__ = ("bound", "passed", "ready_ns", "tasks", "turn")

    def __init__(self) -> None:
        self.tasks: list[tuple[int, MatchingTask]] = []
        self.passed = 0.0
        """The pass of the task that was handed out last."""
        self.turn: _Turn | None = None
        """Of its first task. Entries of the heaps that are not this one are out of date."""
        self.ready_ns = 0
        """Its limit holds it back until then."""
        self.bound: int | None = None
        """Tasks behind that id are in the store alone; None: all are here."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a look at the store brought of a queue with fairness keys."""

    rows: Sequence[MatchingTask]
    bounds: Mapping[int, int]
    """By level: the last task id that is among the rows, where there may be more."""
    cursor: int | None = None
    """There are more keys: the level at which the next look goes on."""


class Fair:
    """Keys take turns."""

    __slots__ = (
        "_away", "_count", "_heap", "_held", "_levels", "_overrides", "_partial", "_passes", "_rate", "_turns",
        "cursor", "short", "wait_ns",
    )  # fmt: skip

    def __init__(self, tasks: Iterable[MatchingTask] = ()) -> None:
        self._levels: dict[int, _Level] = {}
        """Those with tasks, here or (`bound`) in the store."""
        self._away: OrderedDict[int, _Level] = OrderedDict()
        """Those without, the longest gone first."""
        self._heap: list[_Turn] = []
        self._held: list[tuple[int, _Turn]] = []
        """Turns that wait for the limit of their key."""
        self._passes: dict[int, float] = {}
        """By priority: the pass of what was handed out last. A key that was away does not get its turns back."""
        self._count = 0
        self._overrides: Mapping[str, float] = {}
        self._rate: KeyRate | None = None
        self._partial = False
        """There may be keys in the store of which nothing is known here."""
        self._turns = 0
        """So many tasks are handed out before the keys outside get theirs."""
        self.cursor: int | None = None
        self.short: dict[int, int] = {}
        """Levels that have used up their tasks here and have more in the store, behind these task ids."""
        self.wait_ns = NEVER_NS
        """When the limits of keys let something through again, after `pop` gave nothing."""
        for task in tasks:
            self.push(task)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[MatchingTask]:
        return (task for level in self._levels.values() for _, task in level.tasks)

    def configure(self, overrides: Mapping[str, float], rate: KeyRate | None) -> None:
        """Weights that hold instead of the tasks' own, and how fast a key of weight 1 may go."""
        if overrides != self._overrides:
            self._overrides = dict(overrides)
            for number, level in self._levels.items():
                if level.tasks:
                    self._take_turn(number, level)
        if rate == self._rate:
            return
        self._rate = rate
        for level in (*self._levels.values(), *self._away.values()):
            level.ready_ns = 0
        self._heap += (turn for _, turn in self._held)
        heapq.heapify(self._heap)
        self._held = []

    # What comes in.

    def push(self, task: MatchingTask) -> None:
        """It may be handed out from now on."""
        number = task.key.priority
        level = self._levels.get(number)
        if level is None:
            level = self._enter(number)
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

    def leave(self, task: MatchingTask) -> None:
        """There is no room for it: it stays in the store."""
        level = self._levels.get(task.key.priority)
        if level is None or not level.tasks:
            self._partial = True
        elif level.bound is None:
            level.bound = max(task_id for task_id, _ in level.tasks)

    def covers(self, position: Position) -> bool:
        """Whether a row there belongs here: nothing of its key is known to be left in the store."""
        level = self._levels.get(position[0])
        return level is None or level.bound is None or position[1] <= level.bound

    def give_back(self, task: MatchingTask) -> None:
        """It was not used for anything: its key has that turn again."""
        number = task.key.priority
        level = self._levels.get(number) or self._away.get(number)
        if level is None:
            return
        weight = weight_of(task, self._overrides)
        level.passed -= _stride(weight)
        if self._rate is not None:
            level.ready_ns = self._rate.returned(level.ready_ns, weight)
        if level.tasks:
            self._take_turn(number, level)

    def hold(self, task: MatchingTask, until_ns: int) -> None:
        """Others have used up what its key may have until then: put it back."""
        self.give_back(task)
        self.push(task)
        level = self._levels[task.key.priority]
        level.ready_ns = max(level.ready_ns, until_ns)

    # What goes out.

    def pop(self, now_ns: int) -> MatchingTask | None:
        """The next one; None while limits hold all keys back."""
        self.wait_ns = NEVER_NS
        if self._rate is not None and self._rate.paused:
            return None
        while self._held and self._held[0][0] <= now_ns:
            heapq.heappush(self._heap, heapq.heappop(self._held)[1])
        while self._heap:
            turn = heapq.heappop(self._heap)
            level = self._levels.get(turn[3])
            if level is None or level.turn is not turn:
                continue
            if self._rate is not None and level.ready_ns > now_ns:
                heapq.heappush(self._held, (level.ready_ns, turn))
                continue
            return self._hand_out(turn, level, now_ns)
        if self._held:
            self.wait_ns = self._held[0][0]
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
            self._go_away(number, level)
        return task

    def _enter(self, number: int) -> _Level:
        level = self._levels[number] = self._away.pop(number) if number in self._away else _Level()
        return level

    def _go_away(self, number: int, level: _Level) -> None:
        del self._levels[number]
        self._away[number] = level
        if len(self._away) > _KEYS_IN_MIND:
            self._away.popitem(last=False)

    @property
    def oldest_ns(self) -> int:
        """When the task that is next (or held back next) was written."""
        turn = self._heap[0] if self._heap else self._held[0][1]
        level = self._levels.get(turn[3])
        if level is None or not level.tasks:
            level = next(level for level in self._levels.values() if level.tasks)
        return level.tasks[0][1].created_ns

    # The window on the store.

    @property
    def wants_read(self) -> bool:
        """Keys outside should have their turn."""
        return self._partial and self._turns <= 0

    def replace(self, tasks: Iterable[MatchingTask], window: Window) -> None:
        """Hold these tasks instead, which are those of the window, and what came and went while it was read."""
        for number, level in list(self._levels.items()):
            level.tasks, level.bound, level.turn = [], None, None
            self._go_away(number, level)
        self._heap, self._held, self._count, self.short = [], [], 0, {}
        for number, bound in window.bounds.items():
            self._enter(number).bound = bound
        for task in tasks:
            self.push(task)
        self.short = {number: bound for number, bound in window.bounds.items() if not self._levels[number].tasks}
        self.cursor, self._partial, self._turns = window.cursor, window.cursor is not None, len(self._levels)

    def refill(self, number: int, tasks: Iterable[MatchingTask], bound: int | None) -> None:
        """More of a level that was short of tasks; up to `bound`, where there is still more."""
        self.short.pop(number, None)
        level = self._levels.get(number)
        if level is None:
            level = self._enter(number)
        level.bound = bound
        for task in tasks:
            self.push(task)
        if level.tasks:
            return
        if bound is not None:
            self.short[number] = bound
        else:
            self._go_away(number, level)

    def doubt(self) -> None:
        """Something may be in the store that should be here."""
        self._partial = True

    @property
    def levels(self) -> int:
        """How many keys have tasks."""
        return len(self._levels)

    @property
    def whole(self) -> bool:
        """Whether all tasks of the store are here."""
        return not self._partial and all(level.bound is None for level in self._levels.values())


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
        (priority_of(level), -math.log(draw()) / weight_of(those[0], overrides), level)
        for level, those in by_level.items()
    )
    return [task for _, _, level in turns for task in by_level[level]]


def weight_of(task: MatchingTask, overrides: Mapping[str, float]) -> float:
    """That of its key, where somebody set one for it, else its own."""
    if not task.data or task.key.task_type == _NEXUS:
        return 1.0
    try:
        own = common_pb.Priority.FromString(task.data)
    except DecodeError:
        return 1.0  # Damaged: the task itself is none the worse for it.
    weight = overrides.get(own.fairness_key) or own.fairness_weight
    return max(weight, _LEAST_WEIGHT) if weight > 0 else 1.0


def _stride(weight: float) -> float:
    """A whole number, as Temporal's: keys that meet at one pass take turns in the order of their tasks."""
    # Weights are single-precision: 1000 / 0.1 is 9999.99985 in double.
    return max(1.0, math.floor(round(_STRIDE / weight, 3)))
