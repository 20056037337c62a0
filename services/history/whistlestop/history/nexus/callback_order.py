"""Let answers follow completion callbacks.

Rules of this file:
- Whoever waits for the end of an update, a workflow or a standalone activity is answered after its callbacks within
  this server were called for the first time. A Nexus handler that waits for such an end could otherwise answer its own
  request before the callback completes the operation, and its caller would see an operation that never started in some
  runs, and a started one in others. In Temporal the callback comes first, because the answer passes more services.
- Callbacks to other servers, which may take long, are not waited for.
- An answer is late by `LONGEST_NS` at most, for example when the caller's run is busy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.notify import execution_topic
from whistlestop.history.core.state_pb2 import CallbackInfo
from whistlestop.history.nexus.callbacks import stays_here

if TYPE_CHECKING:
    from whistlestop.history.core.limits import Limits
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.engine.entries import Entry
    from whistlestop.history.ports import HistoryPorts

LONGEST_NS = SECOND_NS


async def called(ports: HistoryPorts, entry: Entry, until_ns: int, update_id: str = "") -> None:
    """Wait until the callbacks of the update (by default: of the run's end) have been called once.

    Return at `until_ns` by the steady clock at the latest. Raise StorageError.
    """
    limits = ports.limits.of(entry.state.namespace)
    if not entry.state.completion_callbacks or not _is_pending(entry.state, limits, update_id):
        return
    key = entry.key
    until_ns = min(until_ns, ports.clock.steady_ns() + LONGEST_NS)
    with ports.notifier.subscribe(execution_topic(key.namespace_id, key.workflow_id, key.run_id)) as audience:
        while not ports.is_closing():
            state = (await ports.engine.read(key, audience)).state
            if not _is_pending(state, limits, update_id) or not await audience.wait(until_ns):
                return


def _is_pending(state: MutableState, limits: Limits, update_id: str) -> bool:
    # Callbacks of a release that did not record their states have none here.
    for callback, info in zip(state.completion_callbacks, state.callback_infos, strict=False):
        waits = info.state == CallbackInfo.SCHEDULED and info.update_id == update_id
        if waits and stays_here(state, limits, callback.nexus):
            return True
    return False
