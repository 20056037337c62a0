"""Dynamic configuration of the functions: each takes the keys that concern it from one document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.functions.client import QUEUE
from whistlestop.common.errors import Code, ServiceError
from whistlestop.frontend.dynamic_keys import FRONTEND_KEYS
from whistlestop.functions.dynamic import read_document
from whistlestop.functions.settings import BadSettings
from whistlestop.history.core.limits import Limits
from whistlestop.history.dynamic_keys import LIMIT_KEYS

if TYPE_CHECKING:
    from tests.functions.client import Cloud

DOCUMENT: dict[str, list[dict[str, Any]]] = {
    "limit.maxIDLength": [{"value": 30}],
    "frontend.enableSchedules": [{"value": False, "constraints": {"namespace": "default"}}, {"value": True}],
    "history.maximumSignalsPerExecution": [{"value": 1}],
    "matching.maxFairnessKeyWeightOverrides": [{"value": 1}],
    "history.acquireShardInterval": [{"value": 1, "constraints": {"shardID": 1}}],
}
VARIABLE = "WHISTLESTOP_DYNAMIC_CONFIG"


async def refusal(cloud: Cloud, method: str, **fields: Any) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        await cloud.call(method, **fields)
    return refused.value


async def test_each_function_takes_what_concerns_it(cloud: Cloud) -> None:
    cloud.store_env |= {VARIABLE: json.dumps(DOCUMENT)}
    long = await refusal(
        cloud, "StartWorkflowExecution", workflow_id="w" * 31, workflow_type={"name": "T"}, task_queue=QUEUE
    )
    assert (long.code, long.message) == (Code.INVALID_ARGUMENT, "WorkflowId exceeds maximum allowed length (31/30)")
    schedules = await refusal(cloud, "ListSchedules")
    assert "Schedules are disabled" in schedules.message or schedules.code is Code.UNIMPLEMENTED
    await cloud.start("w")
    signal: dict[str, Any] = {"workflow_execution": {"workflow_id": "w"}, "signal_name": "s"}
    await cloud.call("SignalWorkflowExecution", **signal)
    assert (await refusal(cloud, "SignalWorkflowExecution", **signal)).code is Code.INVALID_ARGUMENT
    many = await refusal(
        cloud, "UpdateTaskQueueConfig", task_queue="q", task_queue_type="TASK_QUEUE_TYPE_ACTIVITY",
        set_fairness_weight_overrides={"a": 1, "b": 2},
    )  # fmt: skip
    assert many.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("limit.maxIDLength: 5", "is not JSON"),
        ("[1]", "expected keys, each with a list of values"),
        ('{"limit.maxIDLength": 5}', 'the key "limit.maxIDLength" needs a list of values'),
        ('{"limit.maxIDLength": [{"value": 5, "constraints": {"shard": 1}}]}', '"shard" of the key'),
    ],
)
def test_a_document_that_is_wrong_is_refused(given: str, complaint: str) -> None:
    with pytest.raises(BadSettings) as refused:
        read_document(given, FRONTEND_KEYS)
    assert str(refused.value).startswith(VARIABLE)
    assert complaint in str(refused.value)


class Parameters:
    """Systems Manager, with one parameter."""

    def get_parameter(self, **fields: Any) -> dict[str, Any]:
        assert fields == {"Name": "/whistlestop/dynamic-config", "WithDecryption": True}
        return {"Parameter": {"Value": json.dumps(DOCUMENT)}}


def test_the_document_may_be_in_systems_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whistlestop.net.aws.client", lambda *_: Parameters())
    limits = read_document("ssm:/whistlestop/dynamic-config", LIMIT_KEYS).apply(Limits(), LIMIT_KEYS)
    assert (limits.id_length, limits.signals_per_execution) == (30, 1)
