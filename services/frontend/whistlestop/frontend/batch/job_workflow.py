"""The workflow that a batch job is: its type, its task queue, and the payloads of its memo."""

from __future__ import annotations

import json
from typing import Any

from temporalio.api.common.v1 import message_pb2 as common_pb

from whistlestop.common import task_queues

WORKFLOW_TYPE = "temporal-sys-batch-workflow-protobuf"
TASK_QUEUE = task_queues.PER_NAMESPACE_QUEUE
STATS_MEMO = "batch_operation_stats"
"""The memo field with the numbers of executions on which the operation succeeded and failed."""


def json_payload(value: Any) -> common_pb.Payload:
    """Encode a value as the SDKs' JSON converter does. Raise TypeError for a value that JSON can't hold."""
    return common_pb.Payload(
        metadata={"encoding": b"json/plain"}, data=json.dumps(value, separators=(",", ":")).encode()
    )
