"""Where tasks go by compatible sets and by rules."""

from __future__ import annotations

import pytest

from whistlestop.common.proto.deployment_pb2 import VersioningData
from whistlestop.common.versioning.build_ids import (
    NEW_WORK,
    assigned_build,
    build_queue,
    keeps_sticky,
    queue_of_task,
    queues_of,
    redirected,
    set_queue,
)


def sets(*builds: str) -> VersioningData:
    """Sets of build ids, each as `1 1.1`."""
    data = VersioningData(clock_ns=1)
    for each in builds:
        names = each.split()
        data.sets.add(set_ids=[f"set of {names[0]}"]).build_ids.extend(
            VersioningData.BuildId(id=name) for name in names
        )
    return data


def rules(*assigned: tuple[str, float], **redirects: str) -> VersioningData:
    data = VersioningData(clock_ns=1)
    for build_id, percentage in assigned:
        rule = data.assignment_rules.add(created_ns=1).rule
        rule.target_build_id, rule.percentage_ramp.ramp_percentage = build_id, percentage
    for source, target in redirects.items():
        redirect = data.redirect_rules.add(created_ns=1).rule
        redirect.source_build_id, redirect.target_build_id = source, target
    return data


@pytest.mark.parametrize(
    ("build_id", "queue"),
    [
        (None, "q"),
        (NEW_WORK, set_queue("set of 2", "q")),
        ("1", set_queue("set of 1", "q")),
        ("1.1", set_queue("set of 1", "q")),
        ("9", build_queue("9", "q")),
    ],
)
def test_sets(build_id: str | None, queue: str) -> None:
    assert queue_of_task(sets("1 1.1", "2"), "q", build_id, "run") == (queue, "")


@pytest.mark.parametrize(
    ("build_id", "queue", "assigned"),
    [
        (None, "q", ""),
        (NEW_WORK, build_queue("c", "q"), "a"),
        ("a", build_queue("c", "q"), ""),
        ("d", build_queue("d", "q"), ""),
    ],
)
def test_rules(build_id: str | None, queue: str, assigned: str) -> None:
    data = rules(("a", 100), ("z", 100), a="b", b="c")
    assert queue_of_task(data, "q", build_id, "run") == (queue, assigned)


def test_rules_come_before_sets_for_new_work() -> None:
    data = sets("1")
    data.MergeFrom(rules(("a", 100)))
    assert queue_of_task(data, "q", NEW_WORK, "run") == (build_queue("a", "q"), "a")


def test_a_queue_without_either_gives_new_work_to_unversioned_workers() -> None:
    assert queue_of_task(VersioningData(), "q", NEW_WORK, "run") == ("q", "")


def test_a_ramp_takes_its_share_of_runs_and_the_same_runs_each_time() -> None:
    data = rules(("a", 30), ("b", 100))
    runs = [f"run {number}" for number in range(1000)]
    given = [assigned_build(data, run_id) for run_id in runs]
    assert 250 < given.count("a") < 350
    assert given == [assigned_build(data, run_id) for run_id in runs]


def test_a_rule_that_was_deleted_counts_no_more() -> None:
    data = rules(("a", 100), ("b", 100), a="c")
    data.assignment_rules[0].deleted_ns = 2
    data.redirect_rules[0].deleted_ns = 2
    assert (assigned_build(data, "run"), redirected(data, "a")) == ("b", "a")


def test_redirects_in_a_circle_end() -> None:
    assert redirected(rules(a="b", b="a"), "a") in ("a", "b")


@pytest.mark.parametrize(("build_id", "keeps"), [(None, True), ("1", False), ("1.1", True), ("a", False), ("b", True)])
def test_sticky_execution_across_build_ids(build_id: str | None, *, keeps: bool) -> None:
    data = sets("1 1.1")
    data.MergeFrom(rules(a="b"))
    assert keeps_sticky(data, build_id) == keeps


def test_all_queues_on_which_tasks_may_wait() -> None:
    data = sets("1 1.1")
    data.MergeFrom(rules(("a", 100), a="b"))
    assert set(queues_of(data, "q")) == {
        set_queue("set of 1", "q"), *(build_queue(build_id, "q") for build_id in ("1", "1.1", "a", "b")),
    }  # fmt: skip
