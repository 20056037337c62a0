"""Compare, over all scenarios, which fields of replies and events the real server sets and which ours does.

    python -m tests.parity.fields [--store memory] [--only TEXT]

Transcripts are equal, but for what a scenario leaves out of them and what `normalise.py` drops or replaces. Here every
reply counts, and every field. Printed are the fields that only one of the servers has set in any scenario; the exit code is
1 if one of them does not stand in `EXPECTED`.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.parity import scenarios
from tests.parity.puppet import Puppet
from tests.parity.test_parity import REAL, Stage

if TYPE_CHECKING:
    import asyncio

    from tests.parity.scenarios import Scenario

EXPECTED = {
    "*.PollerGroup*": "groups of pollers are how Temporal's frontends share polls; one group is all there is here",
    "*.poller_group*": "as above",
    "*.poller_scaling_decision": "a hint that depends on which poller a task met, and when",
    "*.backlog_count_hint": "as above",
    "*.tasks_dispatch_rate": "a rate of the moment",
    "*.QueryWorkflowResponse.link": "Temporal tells it since a later release",
    "*.ScheduleInfo.state_size_bytes": "Temporal's newer scheduler tells it, which is off by default there",
    "*.Capabilities.workflow_update_callbacks": "on by default here: `history.enableUpdateCallbacks`",
    "*.ComputeStatus*": "a version's compute config is validated when it is created here, and some time later there",
    "*.compute_status": "as above",
    "*.NexusOperationExecutionCancellationInfo.requested_time": "the real server leaves it out until it has asked",
}
"""Patterns of fields that one of the two may leave out, and why."""


class Fields:
    """The fields that were set, each with a scenario that shows it."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}
        self.scenario = ""

    def add(self, message: Message) -> None:
        """Note what a message has set, and what the messages in it have."""
        for field, value in message.ListFields():
            self.seen.setdefault(f"{message.DESCRIPTOR.full_name}.{field.name}", self.scenario)
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                for inner in _messages_of(field, value):
                    self.add(inner)


def _messages_of(field: FieldDescriptor, value: Any) -> list[Message]:
    if isinstance(value, Message):
        return [value]
    inside = field.message_type
    if inside is None or not inside.GetOptions().map_entry:
        return list(value)
    of_messages = inside.fields_by_name["value"].type == FieldDescriptor.TYPE_MESSAGE
    return list(value.values()) if of_messages else []


class Watching(Puppet):
    """A puppet that notes the fields of every reply."""

    fields: Fields

    async def finish(self, rpc: str, call: asyncio.Task[Message], *, record: bool = True) -> Any:
        answer = await super().finish(rpc, call, record=record)
        self.fields.add(answer)
        return answer


class WatchingStage(Stage):
    """Plays scenarios with puppets that note fields, by server."""

    def __init__(self, store: str) -> None:
        super().__init__(defaultdict(lambda: [REAL, store]))
        self.fields: defaultdict[str, Fields] = defaultdict(Fields)

    def _puppet(self, server: str, scenario: Scenario, endpoints: Any) -> Puppet:
        puppet = Watching(*endpoints)
        puppet.fields = self.fields[server]
        puppet.fields.scenario = scenario.name
        return puppet


def compare(store: str, only: str) -> int:
    """Play the scenarios and print what differs. Returns how many differences nobody expects."""
    stage = WatchingStage(store)
    try:
        for name, scenario in scenarios.load().items():
            if only in name:
                stage.transcript(store, scenario)
    finally:
        stage.close()
    real, ours = stage.fields[REAL].seen, stage.fields[store].seen
    print(f"{len(real.keys() & ours.keys())} fields are set by both")
    unexpected = 0
    for who, mine, theirs in (("only the real server", real, ours), ("only ours", ours, real)):
        for field in sorted(mine.keys() - theirs.keys()):
            reason = next((why for pattern, why in EXPECTED.items() if fnmatch.fnmatch(field, pattern)), "")
            unexpected += not reason
            print(f"{who} sets {field} ({mine[field]}){': ' + reason if reason else ''}")
    return unexpected


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", default="memory", help="store of ours (memory)")
    parser.add_argument("--only", default="", help="scenarios whose name has this text in it")
    asked = parser.parse_args()
    sys.exit(1 if compare(asked.store, asked.only) else 0)


if __name__ == "__main__":
    main()
