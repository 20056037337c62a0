"""The worker function that we ship, outside of Lambda."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import boto3  # type: ignore[import-untyped]  # carries no types
import pytest
from moto import mock_aws
from temporalio.contrib.aws.lambda_worker import LambdaWorkerConfig

from tests.infra.stack import INFRA
from whistlestop.bridge import running

if TYPE_CHECKING:
    from collections.abc import Iterator

REGION = "eu-central-1"
NAMES = ("handler", "program")


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, imported as from its bundle."""
    for name, value in {
        "WHISTLESTOP_URL": "http://127.0.0.1:1", "DEPLOYMENT_NAME": "shop", "BUILD_ID": "1", "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "TEMPORAL_TASK_QUEUE": "q",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.syspath_prepend(str(INFRA / "worker"))
    with mock_aws():
        yield importlib.import_module("handler")
    for name in NAMES:
        sys.modules.pop(name, None)


async def _key_sent(handler: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the bridge of one invocation calls with."""
    made: list[running.BridgeConfig] = []

    class Watched(running.RunningBridge):
        def __init__(self, config: running.BridgeConfig) -> None:
            made.append(config)
            super().__init__(config)

    monkeypatch.setattr(handler, "RunningBridge", Watched)
    config = LambdaWorkerConfig()
    async for _ in handler.configure(config):
        assert config.client_connect_config["target_host"].startswith("127.0.0.1:")
    return made[0].api_key


async def test_without_a_secret_no_key_is_sent(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await _key_sent(handler, monkeypatch) == ""


async def test_the_key_is_read_at_each_invocation(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been replaced since the last one."""
    client = boto3.client("secretsmanager", region_name=REGION)
    arn = client.create_secret(Name="worker-key", SecretString="first")["ARN"]
    monkeypatch.setenv("API_KEY_SECRET_ARN", arn)
    assert await _key_sent(handler, monkeypatch) == "first"
    client.put_secret_value(SecretId=arn, SecretString="second")
    assert await _key_sent(handler, monkeypatch) == "second"
