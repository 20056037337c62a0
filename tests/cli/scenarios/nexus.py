"""`temporal nexus operation`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.cli.scenarios import scenario
from tests.cli.worker import worker

if TYPE_CHECKING:
    from tests.cli.terminal import Terminal


def _operation(t: Terminal, name: str, operation: str = "echo") -> tuple[str, ...]:
    return (
        "--endpoint", t.id("endpoint"), "--service", "yard", "--operation", operation, "--operation-id", t.id(name),
    )  # fmt: skip


@scenario
async def operations(t: Terminal) -> None:
    await t.run(
        "operator nexus endpoint create", "--name", t.id("endpoint"), "--target-namespace", "default", "--target-task-queue",
        t.task_queue,
    )  # fmt: skip
    limit = ("--schedule-to-close-timeout", "1h")
    for name in ("a", "b"):
        await t.run("nexus operation start", *_operation(t, name), "-i", '"truck"', *limit, "--static-summary", "slow")
    await t.run("nexus operation start", *_operation(t, "a"))
    await t.run("nexus operation describe", "--operation-id", t.id("a"), shaped=_settled)
    await t.run("nexus operation cancel", "--operation-id", t.id("a"), "--reason", "fog")
    await t.run("nexus operation terminate", "--operation-id", t.id("b"), "--reason", "snow")
    await t.run("nexus operation result", "--operation-id", t.id("b"))
    await t.run("nexus operation describe", "--operation-id", t.id("b"))
    async with worker(t):
        await t.run("nexus operation execute", *_operation(t, "c"), "-i", '"van"', *limit)
        await t.run("nexus operation execute", *_operation(t, "d", "refuse"), "-i", '"van"', *limit)
        await t.run(
            "nexus operation execute", *_operation(t, "c"), "-i", '"van"', "--id-reuse-policy", "RejectDuplicate"
        )
        await t.run("nexus operation result", "--operation-id", t.id("c"), output="text")
        await t.run("nexus operation result", "--operation-id", t.id("d"))
        await t.run("nexus operation describe", "--operation-id", t.id("c"))
        await t.run("nexus operation describe", "--operation-id", t.id("d"), "--raw")
    of = ("-q", f"Endpoint = '{t.id('endpoint')}'")
    await t.until(lambda listed: len(listed) == 4, "nexus operation list", *of, shaped=_by_id)
    await t.run("nexus operation count", *of)
    await t.run("nexus operation count", "-q", f"{of[1]} GROUP BY ExecutionStatus")
    await t.run("nexus operation list", "-q", "Nonsense = 1")
    for verb in ("cancel", "terminate", "describe", "result"):
        await t.run(f"nexus operation {verb}", "--operation-id", t.id("nobody"))
        await t.run(f"nexus operation {verb}", "--operation-id", t.id("b"))
    await t.run("nexus operation start", "--endpoint", t.id("none"), *_operation(t, "e")[2:])


def _settled(described: Any) -> Any:
    """Its first attempt may be under way or not."""
    return {key: value for key, value in described.items() if key in {"operation_id", "status", "endpoint", "service"}}


def _by_id(listed: Any) -> Any:
    return sorted(listed, key=lambda one: str(one["operation_id"]))
