"""Workflow rules: what their filters match, and what becomes of an activity that one of them pauses."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.rules.v1 import message_pb2 as rules_pb

from tests.core.activity.test_activity import scheduled
from tests.core.harness import QUEUE, World
from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.activity.pause import PAUSE_INFO
from whistlestop.history.core.times import set_timestamp
from whistlestop.history.core.transition.namespace_policy import NamespacePolicy


def rule(predicate: str, query: str = "", **fields: Any) -> rules_pb.WorkflowRule:
    spec = rules_pb.WorkflowRuleSpec(
        id="r", activity_start={"predicate": predicate}, visibility_query=query, actions=[{"activity_pause": {}}],  # type: ignore[arg-type, list-item]
        **fields,
    )  # fmt: skip
    return rules_pb.WorkflowRule(spec=spec)


def holds(world: World, *rules: rules_pb.WorkflowRule) -> bool:
    """Whether one of the rules keeps the activity that is offered from its worker."""
    (task,) = world.offered(2)

    def decide(run: Any) -> bool:
        run.policy = NamespacePolicy(rules=rules)
        return activity.held_by_rule(run, task.scheduled_event_id, task.stamp)

    return world.transact(decide)


@pytest.mark.parametrize(
    ("predicate", "matches"),
    [
        ("ActivityId = 'a'", True),
        ("ActivityId != 'a'", False),
        ("ActivityId starts_with 'a' and TaskQueue = 'orders'", True),
        ("ActivityType not starts_with 'x'", True),
        ("(ActivityType = 'x' or Attempts >= 1) and ActivityState = 'Scheduled'", True),
        ("Attempts < 1", False),
        ("Attempts = 1", True),
        ("BackoffInterval > 0", False),
        ("BackoffInterval < 10", False),
        ("StartedTime < '2020-01-01T00:00:00Z'", True),
        ("StartedTime between '2020-01-01T00:00:00Z' and '2030-01-01T00:00:00Z'", False),
        # What can't be read matches nothing, and harms nothing.
        ("", False),
        ("ActivityId = a", False),
        ("ActivityId = ''", False),
        ("Attempts = '1'", False),
        ("Attempts starts_with 1", False),
        ("Nothing = 'a'", False),
        ("not ActivityId = 'x'", False),
        ("ActivityId is null", False),
        ("ActivityId in ('a', 'b')", False),
        ("ActivityId between 'a' and 'b'", False),
        ("ActivityId = 'a' limit 1", False),
        ("where ActivityId = 'a'", False),
    ],
)
def test_matches_of_a_predicate(predicate: str, matches: bool) -> None:
    assert holds(scheduled(), rule(predicate)) == matches


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("WorkflowId = 'wf' and WorkflowType = 'Order' and ExecutionStatus = 'Running'", True),
        ("ExecutionStatus != 'Completed'", True),
        ("ExecutionStatus starts_with 'R'", False),
        ("StartTime > '2020-01-01T00:00:00Z'", True),
        ("StartTime = '2023-11-14T22:13:20Z'", True),
        ("StartTime = '2023-11-14T22:13:20.000001Z'", False),
        ("StartTime = 1700000000000000000", True),
        ("StartTime not between '2020-01-01T00:00:00Z' and '2030-01-01T00:00:00Z'", False),
        ("Custom = 'x'", False),
    ],
)
def test_workflows_that_a_rule_applies_to(query: str, matches: bool) -> None:
    assert holds(scheduled(), rule("ActivityId = 'a'", query)) == matches


def test_a_rule_pauses_the_activity_and_takes_its_task_back() -> None:
    world = scheduled()
    assert holds(world, rule("ActivityId = 'b'"), rule("ActivityId = 'a'"))
    (paused,) = world.state().activities.values()
    assert (paused.paused, paused.pause_rule, paused.task_queue) == (True, "r", QUEUE)
    assert world.offered(2) == []
    assert PAUSE_INFO in world.state().search_attributes


def test_a_rule_that_has_expired_or_does_nothing_is_passed_over() -> None:
    expired = rule("ActivityId = 'a'")
    set_timestamp(expired.spec.expiration_time, 1)
    idle = rule("ActivityId = 'a'")
    del idle.spec.actions[:]
    untriggered = rules_pb.WorkflowRule(spec={"id": "r", "actions": [{"activity_pause": {}}]})  # type: ignore[arg-type]
    assert not holds(scheduled(), expired, idle, untriggered)
