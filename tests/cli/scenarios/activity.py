"""`temporal activity`: those of workflows and those that stand alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.cli.scenarios import scenario
from tests.cli.worker import take, worker

if TYPE_CHECKING:
    from tests.cli.terminal import Terminal


@scenario
async def of_a_workflow(t: Terminal) -> None:
    """Two activities that wait in a queue without a worker, steered and ended from outside."""
    async with worker(t):
        await t.run(
            "workflow start", "-w", t.id("a"), "--type", "Shunt", "-t", t.task_queue, "-i", f'"{t.id("siding")}"'
        )
        await t.until(
            lambda shown: len(shown.get("pendingActivities", [])) == 2,
            "workflow describe",
            "-w",
            t.id("a"),
            record=False,
        )
        first, second = ("-w", t.id("a"), "-a", "first"), ("-w", t.id("a"), "-a", "second")
        await t.run("activity pause", *first, "--reason", "tea", "--identity", "me")
        await t.run("activity pause", *first)
        await t.run("workflow describe", "-w", t.id("a"), shaped=_pending)
        await t.run("workflow describe", "-w", t.id("a"), output="text", record=False)
        await t.run("activity reset", *first, "--keep-paused", "--clear-heartbeat-details")
        await t.run("activity unpause", *first)
        await t.run(
            "activity update-options", *first, "--start-to-close-timeout", "20s", "--retry-maximum-attempts", "7",
            "--heartbeat-timeout", "5s", "--retry-initial-interval", "2s", "--retry-backoff-coefficient", "3",
        )  # fmt: skip
        await t.run("workflow describe", "-w", t.id("a"), shaped=_pending)
        await t.run("activity update-options", *first, "--restore-original-options")
        await t.run("activity update-options", *first)
        await t.run("activity complete", *first, "--result", '"done by hand"')
        await t.run("activity complete", *first, "--result", '"again"')
        await t.run("activity fail", *second, "--reason", "too early")
        await take(t, t.id("siding"))
        await t.run("activity fail", *second, "--reason", "no coal", "--detail", '{"left": 0}')
        await t.run("workflow result", "-w", t.id("a"))
        for verb in ("pause", "unpause", "reset"):
            await t.run(f"activity {verb}", *first)
        await t.run("activity complete", "-w", t.id("nobody"), "-a", "first", "--result", "1")
        await t.run("activity fail", "-w", t.id("nobody"), "-a", "first")


def _pending(described: Any) -> Any:
    return sorted(described["pending_activities"], key=lambda one: str(one["activity_id"]))


def _standalone(t: Terminal, name: str, activity_type: str = "load", queue: str = "") -> tuple[str, ...]:
    return ("-a", t.id(name), "--type", activity_type, "-t", queue or t.task_queue, "--start-to-close-timeout", "10s")


@scenario
async def standing_alone_with_a_worker(t: Terminal) -> None:
    async with worker(t):
        await t.run("activity execute", *_standalone(t, "a"), "-i", '"coal"', "--static-summary", "black")
        await t.run("activity execute", *_standalone(t, "b", "drop"), "-i", '"milk"')
        await t.run("activity result", "-a", t.id("a"))
        await t.run("activity result", "-a", t.id("b"))
        await t.run("activity start", *_standalone(t, "a"), "-i", '"coal"', "--id-reuse-policy", "RejectDuplicate")
        await t.run(
            "activity start", *_standalone(t, "b"), "-i", '"coal"', "--id-reuse-policy", "AllowDuplicateFailedOnly"
        )
        await t.run("activity result", "-a", t.id("b"), output="text")
        await t.run("activity describe", "-a", t.id("a"))
        await t.run("activity describe", "-a", t.id("b"), "--raw")
        of = ("-q", f"ActivityId STARTS_WITH '{t.prefix}'")
        await t.until(lambda listed: len(listed) == 3, "activity list", *of, shaped=_by_id)
        await t.run("activity count", *of)
        await t.run("activity count", "-q", f"{of[1]} GROUP BY ExecutionStatus")
        await t.run("activity list", "-q", "Nonsense = 1")
        await t.run("activity delete", "-a", t.id("a"))


def _by_id(listed: Any) -> Any:
    return sorted(listed, key=lambda one: (str(one["activity_id"]), str(one.get("status"))))


@scenario
async def standing_alone_without_one(t: Terminal) -> None:
    """Steered and ended from outside."""
    for name in ("a", "b", "c", "d"):
        await t.run(
            "activity start",
            *_standalone(t, name),
            "-i",
            '"coal"',
            "--retry-maximum-attempts",
            "2",
            "--priority-key",
            "4",
        )
    await t.run("activity start", *_standalone(t, "a"))
    await t.run("activity start", *_standalone(t, "a"), "--id-conflict-policy", "UseExisting")
    await t.run("activity describe", "-a", t.id("a"))
    await t.run("activity describe", "-a", t.id("a"), output="text", record=False)
    await t.run("activity pause", "-a", t.id("a"), "--reason", "tea")
    await t.run("activity describe", "-a", t.id("a"))
    await t.run("activity reset", "-a", t.id("a"), "--keep-paused")
    await t.run("activity unpause", "-a", t.id("a"))
    await t.run(
        "activity update-options", "-a", t.id("a"), "--start-to-close-timeout", "20s", "--heartbeat-timeout", "5s"
    )
    await t.run("activity describe", "-a", t.id("a"))
    await t.run("activity cancel", "-a", t.id("a"), "--reason", "fog")
    await t.run("activity result", "-a", t.id("a"))
    await t.run("activity terminate", "-a", t.id("b"), "--reason", "snow")
    await t.run("activity result", "-a", t.id("b"))
    for _ in ("c", "d"):
        await take(t, t.task_queue)
    await t.run("activity complete", "-a", t.id("c"), "--result", '"by hand"')
    await t.run("activity fail", "-a", t.id("d"), "--reason", "no coal", "--detail", "7")
    await t.run("activity terminate", "-a", t.id("c"))
    await t.run("activity terminate", "-a", t.id("d"))
    for verb in ("cancel", "terminate", "delete", "describe", "result", "pause", "unpause", "reset"):
        await t.run(f"activity {verb}", "-a", t.id("nobody"))
        await t.run(f"activity {verb}", "-a", t.id("b"))
    await t.run("activity start", "-a", t.id("e"), "--type", "load", "-t", t.task_queue)
    await t.run("activity complete", "-a", t.id("nobody"), "--result", "1")


@scenario
async def batches(t: Terminal) -> None:
    """The commands that take a query, over standalone activities."""
    of = ("-q", f"TaskQueue = '{t.task_queue}'", "-y", "--reason", "why")
    for name in ("a", "b"):
        await t.run("activity start", *_standalone(t, name), "-i", '"coal"')
    await t.until(lambda counted: int(counted["count"]) == 2, "activity count", *of[:2])
    for verb, more in (
        ("unpause", ()), ("reset", ()), ("update-options", ("--heartbeat-timeout", "5s")), ("cancel", ()), ("delete", ()),
        ("terminate", ()),
    ):  # fmt: skip
        await t.until(lambda _: True, f"activity {verb}", *of, *more)
