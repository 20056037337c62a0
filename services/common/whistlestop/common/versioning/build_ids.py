"""Legacy worker versioning (before deployments) as every service sees it: compatible build-id sets, and rules.

These rules are Temporal's:
- A task is for an execution without a build id (None), for the default of its queue (`NEW_WORK`), or for a given
  build
  id. For new work, rules are consulted before sets; for a build id, sets before rules.
- Tasks of a set wait in one queue, which only the set's default build id polls. Tasks of a build id in no set wait in
  a queue of that build id, or of the build id to which redirect rules lead.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from temporalio.api.taskqueue.v1.message_pb2 import BuildIdAssignmentRule

    from whistlestop.common.proto.deployment_pb2 import VersioningData

NEW_WORK = ""
"""Used instead of a build id: the task goes to the queue's default."""
_ID_LENGTH = 20


def set_id_of(build_id: str) -> str:
    """Return the id of the set whose first build id this is."""
    # Imported where it is needed: a cold start pays for every module.
    from base64 import urlsafe_b64encode
    from hashlib import sha256

    return urlsafe_b64encode(sha256(build_id.encode()).digest())[:_ID_LENGTH].decode()


def set_queue(set_id: str, task_queue: str) -> str:
    """Return the name of the queue on which a set's tasks wait.

    It cannot collide with a deployment version's queue, since those have a deployment name.
    """
    return f"/_sys/:set:{set_id}/{task_queue}"


def build_queue(build_id: str, task_queue: str) -> str:
    """Return the queue for tasks of a build id in no set; the queue itself for an empty (unversioned) one."""
    return f"/_sys/:build:{set_id_of(build_id)}/{task_queue}" if build_id else task_queue


def find_build(data: VersioningData, build_id: str) -> tuple[int, int]:
    """Return the index of the set that has the build id, and its index in the set; (-1, -1) when no set has it."""
    for set_index, each in enumerate(data.sets):
        for index, build in enumerate(each.build_ids):
            if build.id == build_id:
                return set_index, index
    return -1, -1


def is_fully_ramped(rule: BuildIdAssignmentRule) -> bool:
    """Return whether the assignment rule applies to all new work (it has no ramp, or one of 100 %)."""
    return not rule.HasField("percentage_ramp") or rule.percentage_ramp.ramp_percentage == 100


def assigned_build(data: VersioningData, run_id: str) -> str:
    """Return the build id that assignment rules give to new work of a run; empty when no rule applies."""
    threshold: float | None = None
    for each in data.assignment_rules:
        if each.deleted_ns:
            continue
        if not is_fully_ramped(each.rule):
            if threshold is None:
                threshold = _ramp_threshold(run_id)
            if each.rule.percentage_ramp.ramp_percentage <= threshold:
                continue
        return each.rule.target_build_id
    return ""


def _ramp_threshold(run_id: str) -> float:
    from whistlestop.common.fingerprint import fingerprint32

    return 100 * fingerprint32(run_id.encode()) / 2**32


def redirected(data: VersioningData, build_id: str) -> str:
    """Follow redirect rules from a build id and return the last one; the build id itself when no rule applies."""
    rules = [each.rule for each in data.redirect_rules if not each.deleted_ns]
    targets = {rule.source_build_id: rule.target_build_id for rule in rules}
    for _ in range(len(rules)):
        if build_id not in targets:
            break
        build_id = targets[build_id]
    return build_id


def queue_of_task(data: VersioningData, task_queue: str, build_id: str | None, run_id: str) -> tuple[str, str]:
    """Return the queue that a task waits on, and the build id that rules assigned to it (empty: none)."""
    if build_id is None:
        return task_queue, ""
    assigned = ""
    if build_id == NEW_WORK:
        assigned = assigned_build(data, run_id)
        if not assigned and data.sets:
            return set_queue(data.sets[-1].set_ids[0], task_queue), ""
        build_id = assigned
    else:
        index, _ = find_build(data, build_id)
        if index >= 0:
            return set_queue(data.sets[index].set_ids[0], task_queue), ""
    return build_queue(redirected(data, build_id), task_queue), assigned


def keeps_sticky(data: VersioningData, build_id: str | None) -> bool:
    """Return whether the worker of that build id (None: unversioned), which has the run cached, keeps its tasks."""
    if build_id is None:
        return True
    index, place = find_build(data, build_id)
    if index >= 0:
        return place == len(data.sets[index].build_ids) - 1
    return redirected(data, build_id) == build_id


def queue_of_poll(data: VersioningData, task_queue: str, build_id: str) -> tuple[str, bool]:
    """Return the queue from which a worker with the build id takes tasks, and whether it is a set's queue.

    Raises OUT_OF_RANGE when a newer build id gets the tasks.
    """
    index, place = find_build(data, build_id)
    if index >= 0:
        builds = data.sets[index].build_ids
        if place != len(builds) - 1:
            raise newer_build_exists(builds[-1].id)
        return set_queue(data.sets[index].set_ids[0], task_queue), True
    last = redirected(data, build_id)
    if last != build_id:
        raise newer_build_exists(last)
    return build_queue(build_id, task_queue), False


def queues_of(data: VersioningData, task_queue: str) -> Iterator[str]:
    """Yield all queues, other than the unversioned one, on which tasks of `task_queue` may wait."""
    builds = {build.id for each in data.sets for build in each.build_ids}
    for each in data.sets:
        for set_id in each.set_ids:
            yield set_queue(set_id, task_queue)
    builds.update(rule.rule.target_build_id for rule in data.assignment_rules)
    for redirect in data.redirect_rules:
        builds.update((redirect.rule.source_build_id, redirect.rule.target_build_id))
    for build_id in sorted(builds - {""}):
        yield build_queue(build_id, task_queue)


def newer_build_exists(build_id: str) -> ServiceError:
    """Return the error for a worker whose build id gets no more tasks."""
    return ServiceError(
        Code.OUT_OF_RANGE,
        f"Task queue has a newer compatible build: {json.dumps(build_id)}",
        details_pb.NewerBuildExistsFailure(default_build_id=build_id),
    )
