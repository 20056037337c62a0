"""What two servers may differ in becomes a placeholder; everything else stays as it is.

Identifiers are numbered in the order in which they appear, so that two transcripts agree only if the same
identifier stands at the same places.
"""

from __future__ import annotations

import base64
import math
import re
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from temporalio.api.errordetails.v1 import message_pb2 as _details  # noqa: F401  (Any in status details needs them)
from temporalio.api.update.v1 import message_pb2 as _update  # noqa: F401  (Any in protocol messages needs them)

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from temporalio.api.common.v1.grpc_status_pb2 import GrpcStatus

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SPACES = re.compile(r"[ \u00a0]+")
# Counted under the names of the store's columns, which are not those of the attributes.
ATTRIBUTES_SIZE = re.compile(r"(total size of search attributes) \d+")
# How Go prints a message is not its promise.
GO_PAYLOAD = re.compile(r"value from <.*>")
TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")

PLACEHOLDERS = {
    # opaque by contract
    "task_token": "<token>",
    "next_page_token": "<token>",
    "long_poll_token": "<token>",
    "conflict_token": "<token>",
    "run_id_token": "<token>",
    # numbers of rows and bytes are the storage's own matter
    "task_id": "<task id>",
    "history_size_bytes": "<bytes>",
    "state_size_bytes": "<bytes>",
    "mutable_state_size_bytes": "<bytes>",
    # names of one installation
    "server_version": "<version>",
    "cluster_name": "<cluster>",
    "active_cluster_name": "<cluster>",
    "cluster_id": "<cluster>",
    "history_shard_count": "<count>",
    "persistence_store": "<store>",
    "visibility_store": "<store>",
    "shard_id": "<shard>",
}
DROPPED = {
    # hints that depend on which poller a task met, and when
    "backlog_count_hint",
    "poller_scaling_decision",
    "poller_group_id",
    "poller_group_infos",
    # replication's version: 0 on a cluster that is alone, absent or present as the writer likes
    "failover_version",
}
# The same of events, and the release of an installation; a worker deployment's version has a name in it.
NUMBERED_VERSION = re.compile(r"[0-9.]*")
# What a server says it can do in parts that are not compared here: Nexus, deployments, standalone activities.
OTHER_PARTS = {
    "nexus",
    "server_scaled_deployments",
    "standalone_activities",
    "standalone_activity_start_delay",
    "standalone_activity_batch_operations",
    "standalone_activity_operator_commands",
    "standalone_nexus_operation",
    "workflow_update_callbacks",
}
# Durations that the clock had a part in.
CLOCKED = {"execution_duration"}
# What was configured, less the microseconds that passed in between.
NEARLY = {"current_retry_interval"}
# How far a clock was moved to an instant that was fixed a moment before.
ROUNDED = {"initial_skipped_duration"}
# What is left of a whole number of seconds: continue-as-new keeps runs a second apart.
REST_OF_A_SECOND = {"first_workflow_task_backoff", "backoff_start_interval"}


class Normaliser:
    """Turns messages and errors of one scenario into plain data that can be compared."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.placeholders = dict(PLACEHOLDERS)
        """A scenario may add what races on the real server itself."""
        self._uuids: dict[str, str] = {}

    def message(self, message: Message) -> Any:
        """A message as nested plain data, names as in the proto files."""
        return self._value("", json_format.MessageToDict(message, preserving_proto_field_name=True))

    def status(self, status: GrpcStatus, code: str) -> dict[str, Any]:
        """A refusal: code, message, and details by type."""
        plain: dict[str, Any] = {"error": code, "message": self.text(status.message)}
        details = [self._detail(detail) for detail in status.details]
        if details:
            plain["details"] = details
        return plain

    def _detail(self, detail: Any) -> Any:
        try:
            return self._value("", json_format.MessageToDict(detail, preserving_proto_field_name=True))
        except TypeError:
            return detail.type_url

    def text(self, text: str) -> str:
        """Text with the scenario's prefix and all UUIDs replaced."""
        # Go prints messages with one blank or two, or a no-break one, by a coin tossed when it was built.
        text = SPACES.sub(" ", text).replace(self._prefix, "<scenario>")
        text = GO_PAYLOAD.sub("value from <payload>", text)
        text = ATTRIBUTES_SIZE.sub(r"\1 <bytes>", text)
        return UUID.sub(lambda found: self._uuid(found.group()), text)

    def _uuid(self, uuid: str) -> str:
        return self._uuids.setdefault(uuid, f"<uuid {len(self._uuids) + 1}>")

    def plain(self, value: Any) -> Any:
        """Plain data of a scenario's own making."""
        return self._value("", value)

    def _value(self, name: str, value: Any) -> Any:
        if name in self.placeholders and value:
            return self.placeholders[name]
        if name in CLOCKED:
            return "<duration>"
        if name in NEARLY:
            return f"{float(value.removesuffix('s')):.1f}s"
        if name in ROUNDED:
            return f"{round(float(value.removesuffix('s')))}s"
        if name in REST_OF_A_SECOND:
            return f"{math.ceil(float(value.removesuffix('s')))}s"
        if name == "data" and isinstance(value, str):
            return self._bytes(value)
        if name == "metadata":
            value = {key: self._bytes(item) if isinstance(item, str) else item for key, item in value.items()}
        if name == "capabilities":
            value = {key: item for key, item in value.items() if key not in OTHER_PARTS}
        if isinstance(value, dict):
            return self._fields(value)
        if isinstance(value, list):
            return [self._value("", item) for item in value]
        if isinstance(value, str):
            return "<time>" if TIMESTAMP.match(value) else self.text(value)
        return value

    def _bytes(self, encoded: str) -> str:
        """A payload's bytes as text where they are text: the server writes run ids into some."""
        try:
            return self.text(base64.b64decode(encoded).decode())
        except ValueError:
            return encoded

    def _fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        kept = {
            key: value
            for key, value in fields.items()
            if key not in DROPPED and not (key == "version" and NUMBERED_VERSION.fullmatch(str(value)))
        }
        if _is_map_of_uuids(kept):
            # The keys are of the server's making (query ids): ordered by what they lead to.
            values = sorted((self._value("", value) for value in kept.values()), key=repr)
            return {f"<key {number}>": value for number, value in enumerate(values, 1)}
        return {self.text(key): self._value(key, value) for key, value in kept.items()}


def _is_map_of_uuids(fields: dict[str, Any]) -> bool:
    return bool(fields) and all(UUID.fullmatch(key) for key in fields)
