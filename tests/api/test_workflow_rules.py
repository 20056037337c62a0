"""Workflow rules as callers make them: what is refused, whatever else they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.rules.v1 import message_pb2 as rules_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as pb

from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from tests.api.fixtures import World

LONG = "ActivityType = 'x' or " * 1000


async def create(world: World, rule_id: str, predicate: str = "", **fields: Any) -> None:
    trigger = rules_pb.WorkflowRuleSpec.ActivityStartingTrigger(predicate=predicate)
    spec = rules_pb.WorkflowRuleSpec(id=rule_id, activity_start=trigger, **fields)
    await world.call("CreateWorkflowRule", pb.CreateWorkflowRuleRequest(namespace="default", spec=spec))


async def test_the_first_to_expire_makes_room_even_without_an_instant(world: World) -> None:
    instants = (Timestamp(seconds=5), Timestamp(seconds=-(10**15)), Timestamp(seconds=1, nanos=-3))
    for number in range(10):
        fields: dict[str, Any] = {"expiration_time": instants[number]} if number < len(instants) else {}
        await create(world, f"r{number}", **fields)
    await create(world, "last")
    listed = await world.call("ListWorkflowRules", pb.ListWorkflowRulesRequest(namespace="default"))
    assert isinstance(listed, pb.ListWorkflowRulesResponse)
    assert sorted(rule.spec.id for rule in listed.rules) == sorted(["last", *(f"r{n}" for n in range(10) if n != 1)])


@pytest.mark.parametrize(
    "fields",
    [{"rule_id": "é" * 501}, {"rule_id": "r", "predicate": LONG}, {"rule_id": "r", "visibility_query": LONG}],
)
async def test_too_long_values_are_refused(world: World, fields: dict[str, str]) -> None:
    """An id by its bytes; and a filter, which costs whoever runs the activities time to read."""
    with pytest.raises(ServiceError) as refused:
        await create(world, **fields)
    assert refused.value.code is Code.INVALID_ARGUMENT
