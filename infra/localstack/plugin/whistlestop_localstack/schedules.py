"""Make EventBridge Scheduler fire: LocalStack's community edition only stores schedules (in moto's models).

Targets are Lambda functions (invoked asynchronously) and SQS queues. To make tests faster:

    SCHEDULES_SPEEDUP=N              rate(…) schedules fire N times as often
    LAMBDA_CLOCK_AHEAD_FILE=<file>   seconds that the clock of schedules (and functions) is ahead
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

from localstack.runtime import hooks

from .process import ahead_s
from .ticker import Ticker

TICK_S = 0.2
_log = logging.getLogger(__name__)
_stopping = threading.Event()


def _fire(account: str, region: str, schedule: Any) -> None:
    from localstack.aws.connect import connect_to

    arn: str = schedule.target["Arn"]
    said: str = schedule.target.get("Input") or "{}"
    clients = connect_to(aws_access_key_id=account, region_name=region)
    if ":lambda:" in arn:
        clients.lambda_.invoke(FunctionName=arn, InvocationType="Event", Payload=said.encode())
    elif ":sqs:" in arn:
        url = clients.sqs.get_queue_url(QueueName=arn.rpartition(":")[2])["QueueUrl"]
        clients.sqs.send_message(QueueUrl=url, MessageBody=said)
    else:
        _log.warning("schedule %s: unsupported target %s", schedule.name, arn)


def _run() -> None:
    from moto.scheduler.models import scheduler_backends

    ticker = Ticker(_fire, float(os.environ.get("SCHEDULES_SPEEDUP", "1")))
    clock_ahead_file = os.environ.get("LAMBDA_CLOCK_AHEAD_FILE", "")
    while not _stopping.wait(TICK_S):
        try:
            ticker.tick(time.time() + ahead_s(clock_ahead_file), scheduler_backends)
        except Exception:
            _log.exception("schedules")


@hooks.on_infra_ready()  # type: ignore[untyped-decorator]  # LocalStack is not installed for type checks
def start_schedules() -> None:
    """Start firing schedules."""
    threading.Thread(target=_run, name="schedules", daemon=True).start()


@hooks.on_infra_shutdown()  # type: ignore[untyped-decorator]  # as above
def stop_schedules() -> None:
    """Stop firing schedules."""
    _stopping.set()
