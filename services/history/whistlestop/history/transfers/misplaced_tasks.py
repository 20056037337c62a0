"""Find and reroute tasks that were routed by deployments which have changed meanwhile.

A commit chooses a task's queue by deployments that were read a moment ago (storage/deployments.py). When the routing
changes, waiting tasks are rerouted (api/deployments.py), but a task may be written after that: it was being committed,
or its process did not know of the change yet. So the queues that got tasks are remembered until the deployments have
been read once more, by a read that began after the commit; if they differ by then, the tasks of those queues are
rerouted again. If a process ends before that, matching does it when workers poll.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from whistlestop.common.errors import ServiceError
from whistlestop.net.tasks.background import Background
from whistlestop.storage.deployments import MAX_BEHIND_S
from whistlestop.storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from whistlestop.common.clock import Clock
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.storage.deployments import Deployments
    from whistlestop.storage.records import MatchingTask

    Reroute = Callable[[str, str, int, NamespaceDeployments], Awaitable[object]]
    """Reroute the tasks of a queue, given by namespace id, name and type."""

log = logging.getLogger(__name__)

_MOST_QUEUES = 10_000
"""The maximum of queues remembered for a namespace; further ones are left to matching."""


class MisplacedTasks:
    """The queues that recently got tasks, by namespace, with the deployments by which they were chosen."""

    def __init__(self, deployments: Deployments, clock: Clock, reroute: Reroute) -> None:
        self._deployments = deployments
        self._clock = clock
        self._reroute = reroute
        self._placed: dict[str, dict[tuple[str, int], NamespaceDeployments]] = {}
        """Has an entry, possibly an empty one, for each namespace that is being watched."""
        self._background = Background(log, "tasks placed by older routing could not be checked")

    def note(self, tasks: Sequence[MatchingTask], placed_by: Mapping[str, NamespaceDeployments], sticky: str) -> None:
        """Remember the queues of tasks that were just committed, except the sticky one.

        `placed_by` are the deployments of each namespace that has such tasks.
        """
        for namespace_id, deployments in placed_by.items():
            self._note(namespace_id, tasks, deployments, sticky)

    def _note(
        self, namespace_id: str, tasks: Iterable[MatchingTask], placed_by: NamespaceDeployments, sticky: str
    ) -> None:
        placed = self._placed.get(namespace_id)
        if placed is None:
            placed = self._placed[namespace_id] = {}
            self._background.spawn(self._watch(namespace_id))
        late = self._deployments.peek(namespace_id) is not placed_by
        for task in tasks:
            name, task_type = task.key.task_queue, task.key.task_type
            if name == sticky or task.key.namespace_id != namespace_id:
                continue
            if late:
                # The routing has changed during the commit.
                self._background.spawn(self._check(namespace_id, {(name, task_type): placed_by}))
            elif (name, task_type) not in placed and len(placed) < _MOST_QUEUES:
                placed[(name, task_type)] = placed_by

    async def _watch(self, namespace_id: str) -> None:
        """Check every second, until there were no new tasks in a second."""
        try:
            await self._clock.sleep(MAX_BEHIND_S)
            while placed := self._placed[namespace_id]:
                self._placed[namespace_id] = {}
                await self._check(namespace_id, placed)
                await self._clock.sleep(MAX_BEHIND_S)
        finally:
            del self._placed[namespace_id]

    async def _check(self, namespace_id: str, placed: dict[tuple[str, int], NamespaceDeployments]) -> None:
        """Reroute tasks on these queues if the routing has changed."""
        try:
            known = await self._deployments.read(namespace_id)
            for (name, task_type), placed_by in placed.items():
                if placed_by is not known:
                    await self._reroute(namespace_id, name, task_type, known)
        except (ServiceError, StorageError) as error:
            log.debug("tasks of namespace %s could not be rerouted: %r", namespace_id, error)
            for queue, placed_by in placed.items():
                if namespace_id in self._placed:
                    self._placed[namespace_id].setdefault(queue, placed_by)

    async def close(self) -> None:
        """Stop checking."""
        await self._background.cancel()
