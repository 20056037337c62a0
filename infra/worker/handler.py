"""A worker in AWS Lambda: started when a task of its version finds no poller, and ended with its invocation.

It is the SDK's own Lambda worker, with the bridge inside: it speaks gRPC to the bridge, and the bridge signed HTTPS
to the Function URL. Its workflows and activities are in `program.py`: replace them by yours.

Environment: WHISTLESTOP_URL (the Function URL), DEPLOYMENT_NAME, BUILD_ID, TEMPORAL_TASK_QUEUE, TEMPORAL_NAMESPACE,
MAX_IDLE (seconds without work after which the worker ends; 0: only at its timeout), API_KEY_SECRET_ARN (the secret
with the worker's API key, if the server requires one).
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from program import ACTIVITIES, WORKFLOWS
from temporalio.common import WorkerDeploymentVersion
from temporalio.contrib.aws.lambda_worker import LambdaWorkerConfig, run_worker

from whistlestop.bridge import BridgeConfig, RunningBridge
from whistlestop.bridge.idle import EndsWhenIdle

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


def api_key() -> str:
    """Return the API key, read at each invocation because it may be replaced; empty if none is configured."""
    arn = os.environ.get("API_KEY_SECRET_ARN", "")
    if not arn:
        return ""
    import boto3

    return str(boto3.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])


async def configure(config: LambdaWorkerConfig) -> AsyncGenerator[None, None]:
    """Configure the worker. This runs at each invocation, and the bridge lives as long as the worker."""
    bridge = BridgeConfig(
        os.environ["WHISTLESTOP_URL"],
        sigv4=True,
        region=os.environ["AWS_REGION"],
        api_key=await asyncio.to_thread(api_key),
        # A check for tasks costs a tenth of the second that the worker waits: see docs/cost.md, "Pushed workers".
        most_idle_s=1.0,
    )
    async with RunningBridge(bridge) as running:
        config.client_connect_config["target_host"] = running.address
        config.worker_config["workflows"] = WORKFLOWS
        config.worker_config["activities"] = ACTIVITIES
        # The SDK's handler alone would run until its timeout, and be billed for it.
        max_idle_s = float(os.environ.get("MAX_IDLE", "10"))
        if max_idle_s:
            config.worker_config["plugins"] = [EndsWhenIdle(running.counters, max_idle_s)]
        yield


handler = run_worker(WorkerDeploymentVersion(os.environ["DEPLOYMENT_NAME"], os.environ["BUILD_ID"]), configure)
