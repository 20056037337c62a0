"""Measure the cost of a task token: our nonce per attempt, compared to an authenticated token.

    python -m benchmarks.tokens

It prints microseconds of CPU (the best of several rounds) and bytes, for issuing and for checking a token. Each row
is relative to the plain token of 0.1.0. docs/decisions/0001-task-tokens.md has the figures.
"""

from __future__ import annotations

import hmac
import timeit
from hashlib import blake2b
from typing import TYPE_CHECKING

from whistlestop.common.ids import RandomIds
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.history.core import nonces
from whistlestop.history.core.state_pb2 import WorkflowTask

if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS, _TIMES = 15, 10_000
_KEY = bytes(range(32))
_KEY_ID = 1
_MAC_BYTES = 16
_IDS = RandomIds()
_STARTED_NS = 1_790_000_000_123_456_789


def _plain(nonce: int = 0) -> TaskToken:
    return TaskToken(
        namespace_id="0190f7a2-7b1e-7cc3-98c4-dc0c0c07398f", workflow_id="order-12345678",
        run_id="0190f7a2-7b1e-7cc3-98c4-dc0c0c073990", scheduled_event_id=5, started_event_id=6, attempt=1,
        started_time_ns=_STARTED_NS, nonce=nonce,
    )  # fmt: skip


def _task() -> WorkflowTask:
    return WorkflowTask(
        scheduled_event_id=5, started_event_id=6, attempt=1, request_id="0190f7a2-7b1e-7cc3-98c4-dc0c0c073991",
        timeout_ns=10**10, scheduled_ns=_STARTED_NS, original_scheduled_ns=_STARTED_NS, started_ns=_STARTED_NS,
    )  # fmt: skip


def _hand_out(task: WorkflowTask) -> bytes:
    nonces.draw(task, _STARTED_NS, _IDS)
    return _plain(task.nonce).SerializeToString()


def _microseconds(work: Callable[[], object]) -> float:
    return min(timeit.repeat(work, number=_TIMES, repeat=_ROUNDS)) / _TIMES * 1e6


def _with_mac(data: bytes, mac: Callable[[bytes], bytes]) -> bytes:
    # An additive field at the end: tag, length, key id and the authentication code.
    return data + b"\x7a\x11" + bytes((_KEY_ID,)) + mac(data)


def _blake2(data: bytes) -> bytes:
    return blake2b(data, key=_KEY, digest_size=_MAC_BYTES).digest()


def _sha256(data: bytes) -> bytes:
    return hmac.digest(_KEY, data, "sha256")[:_MAC_BYTES]


def main() -> None:
    """Print the table."""
    task, plain = _task(), _plain().SerializeToString()
    stored = task.ByteSize()
    nonces.draw(task, _STARTED_NS, _IDS)
    handed_out = _plain(task.nonce).SerializeToString()
    token = TaskToken.FromString(handed_out)
    build = _microseconds(lambda: _plain().SerializeToString())
    parse = _microseconds(lambda: TaskToken.FromString(plain))
    print(f"the plain token: {build:.2f} us to make, {parse:.2f} us to read, {len(plain)} bytes\n")
    print("| | us to hand out | us to check | bytes of token | bytes of state |")
    print("|---|---|---|---|---|")
    made = _microseconds(lambda: _hand_out(task))
    checked = _microseconds(lambda: nonces.current(task, task.started_ns) == token.nonce)
    print(
        f"| nonce | {made - build:.2f} | {checked:.2f} | {len(handed_out) - len(plain)} | {task.ByteSize() - stored} |"
    )
    for name, mac in (("MAC, BLAKE2b", _blake2), ("MAC, HMAC-SHA-256", _sha256)):
        with_mac = _with_mac(plain, mac)
        made = _microseconds(lambda mac=mac: _with_mac(plain, mac))  # type: ignore[misc]  # the loop's, at once
        checked = _microseconds(
            lambda mac=mac, sent=with_mac: hmac.compare_digest(mac(sent[:-19]), sent[-16:])  # type: ignore[misc]
        )
        print(f"| {name} | {made:.2f} | {checked:.2f} | {len(with_mac) - len(plain)} | 0 |")


if __name__ == "__main__":
    main()
