"""`temporal workflow`: one execution at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.cli.scenarios import scenario
from tests.cli.worker import worker

if TYPE_CHECKING:
    from tests.cli.terminal import Terminal


def to_start(t: Terminal, name: str, workflow: str = "Train") -> tuple[str, ...]:
    return ("-w", t.id(name), "--type", workflow, "-t", t.task_queue)


@scenario
async def starts(t: Terminal) -> None:
    """All that a start can carry, as it is described, shown, listed and counted; and what is refused."""
    carried = (
        *to_start(t, "a"), "-i", '{"to": "Barry"}', "-i", "7", "--memo", 'colour="red"', "--static-summary", "to the sea",
        "--static-details", "every *Sunday*", "--execution-timeout", "1h", "--run-timeout", "30m", "--task-timeout", "7s",
        "--search-attribute", 'CustomKeywordField="k"', "--priority-key", "2", "--fairness-key", "f", "--fairness-weight",
        "1.5", "--id-reuse-policy", "RejectDuplicate",
    )  # fmt: skip
    await t.run("workflow start", *carried)
    await t.run("operator search-attribute create", "--name", t.id("Line").replace("-", ""), "--type", "Keyword")
    await t.run("workflow start", *to_start(t, "a"), "-i", "1", "--search-attribute", 'NoSuch="k"')
    await t.run("workflow start", *carried[:10])
    await t.run("workflow start", *carried[:10], "--id-conflict-policy", "UseExisting")
    await t.run(
        "workflow start",
        *to_start(t, "a"),
        "--id-conflict-policy",
        "UseExisting",
        "--id-reuse-policy",
        "TerminateIfRunning",
    )
    await t.run("workflow start", *to_start(t, "a"), "--fail-existing")
    await t.run("workflow start", *to_start(t, "b"), "--start-delay", "1h", "-i", "true")
    await t.run("workflow start", *to_start(t, "c"), "--priority-key", "-1")
    await t.run("workflow start", *to_start(t, "c"), "--namespace", "nowhere")
    await t.run("workflow start", *to_start(t, "w" * 1001))
    await t.run("workflow describe", "-w", t.id("a"))
    await t.run("workflow describe", "-w", t.id("a"), "--raw")
    await t.run("workflow describe", "-w", t.id("a"), output="text")
    await t.run("workflow describe", "-w", t.id("b"))
    await t.run("workflow describe", "-w", t.id("nobody"))
    await t.run("workflow describe", "-w", t.id("a"), "-r", "no-run-id")
    await t.run("workflow show", "-w", t.id("a"))
    await t.run("workflow show", "-w", t.id("b"), output="text")
    query = f"WorkflowId STARTS_WITH '{t.prefix}'"
    await t.until(lambda listed: len(listed) == 2, "workflow list", "-q", query, shaped=by_id)
    await t.run("workflow list", "-q", query, "--limit", "1", "--page-size", "1", output="text")
    await t.run("workflow list", "-q", "Nonsense = 1")
    await t.run("workflow list", "-q", "WorkflowId ==")
    await t.run("workflow list", "--archived")
    await t.run("workflow count", "-q", query)
    await t.run("workflow count", "-q", f"{query} GROUP BY ExecutionStatus")
    await t.run("workflow count", "-q", "GROUP BY WorkflowType")


def by_id(listed: list[Any]) -> list[Any]:
    return sorted(listed, key=lambda one: str(one["execution"]["workflow_id"]))


@scenario
async def runs(t: Terminal) -> None:
    """A worker's workflow from its start to its result: signals, queries, stack, metadata, history."""
    async with worker(t):
        await t.run("workflow start", *to_start(t, "a"), "-i", '"stopper"')
        await t.run("workflow signal", "-w", t.id("a"), "--name", "stop", "-i", '"Radyr"')
        await t.run("workflow query", "-w", t.id("a"), "--name", "where")
        await t.run("workflow query", "-w", t.id("a"), "--name", "nothing")
        await t.run("workflow query", "-w", t.id("nobody"), "--name", "where")
        await t.run("workflow stack", "-w", t.id("a"), record=False)
        await t.run("workflow metadata", "-w", t.id("a"))
        await t.run("workflow signal", "-w", t.id("a"), "--name", "depart")
        await t.run("workflow result", "-w", t.id("a"))
        await t.run("workflow show", "-w", t.id("a"))
        await t.run("workflow show", "-w", t.id("a"), "--detailed", output="text")
        await t.run("workflow show", "-w", t.id("a"), "--follow", output="text")
        await t.run("workflow show", "-w", t.id("a"), "--reverse", output="text")
        await t.run("workflow describe", "-w", t.id("a"))
        await t.run("workflow describe", "-w", t.id("a"), output="text")
        await t.run("workflow describe", "-w", t.id("a"), "--reset-points")
        await t.run("workflow query", "-w", t.id("a"), "--name", "where", "--reject-condition", "not_open")
        await t.run("workflow signal", "-w", t.id("a"), "--name", "stop")
        await t.run("workflow execute", *to_start(t, "b", "Derail"), "-i", '"Taffs Well"')
        await t.run("workflow execute", *to_start(t, "b2", "Derail"), "-i", '"Taffs Well"', output="text")
        await t.run("workflow result", "-w", t.id("b"))
        await t.run("workflow execute", *to_start(t, "c", "Couple"), "-i", '"coal"')
        await t.run(
            "workflow execute", *to_start(t, "c2", "Couple"), "-i", '"coal"', "--detailed", output="text", record=False
        )
        await t.run("workflow trace", "-w", t.id("c"), output="text")
        await t.run("workflow trace", "-w", t.id("c"), "--no-fold", "--depth", "0", output="text")
        await t.run("workflow result", "-w", t.id("c-child"))


@scenario
async def ends(t: Terminal) -> None:
    """Cancelled, terminated, deleted; and what is said of those that are not there."""
    async with worker(t):
        for name in ("a", "b"):
            await t.run("workflow start", *to_start(t, name))
        await t.run("workflow cancel", "-w", t.id("a"), "--reason", "fog")
        await t.run("workflow cancel", "-w", t.id("a"))
        await t.run("workflow result", "-w", t.id("a"))
        await t.run("workflow terminate", "-w", t.id("b"), "--reason", "snow")
        await t.run("workflow result", "-w", t.id("b"))
        await t.run("workflow show", "-w", t.id("b"))
        for name in ("a", "nobody"):
            await t.run("workflow cancel", "-w", t.id(name))
            await t.run("workflow terminate", "-w", t.id(name))
            await t.run("workflow signal", "-w", t.id(name), "--name", "stop")
        await t.run("workflow delete", "-w", t.id("a"))
        await t.run("workflow delete", "-w", t.id("nobody"))
        await t.run("workflow result", "-w", t.id("nobody"))
        await t.run("workflow show", "-w", t.id("nobody"))


@scenario
async def updates(t: Terminal) -> None:
    async with worker(t):
        await t.run("workflow start", *to_start(t, "a"))
        of = ("-w", t.id("a"))
        await t.run("workflow update execute", *of, "--name", "add", "-i", '"Cogan"', "--update-id", "u1")
        await t.run("workflow update execute", *of, "--name", "add", "-i", '""', "--update-id", "u2")
        await t.run("workflow update execute", *of, "--name", "nothing", "--update-id", "u3")
        await t.run("workflow update start", *of, "--name", "hold", "--update-id", "u4", "--wait-for-stage", "accepted")
        await t.run("workflow update describe", *of, "--update-id", "u4")
        await t.run("workflow update describe", *of, "--update-id", "nobody")
        await t.run("workflow signal", *of, "--name", "depart")
        await t.run("workflow update result", *of, "--update-id", "u4")
        await t.run("workflow update result", *of, "--update-id", "u1")
        await t.run("workflow update describe", *of, "--update-id", "u4")
        await t.run("workflow update result", *of, "--update-id", "nobody")
        await t.run("workflow update execute", *of, "--name", "add", "-i", '"late"')
        await t.run("workflow update execute", "-w", t.id("nobody"), "--name", "add")


@scenario
async def starts_with_something(t: Terminal) -> None:
    async with worker(t):
        signal = ("--signal-name", "stop", "--signal-input", '"Heath"')
        await t.run("workflow signal-with-start", *to_start(t, "a"), *signal)
        await t.run("workflow signal-with-start", *to_start(t, "a"), *signal)
        await t.run("workflow query", "-w", t.id("a"), "--name", "where")
        update = ("--update-name", "add", "--update-input", '"Lisvane"', "--update-id")
        await t.run(
            "workflow execute-update-with-start", *to_start(t, "b"), *update, "u1", "--id-conflict-policy", "Fail"
        )
        await t.run(
            "workflow execute-update-with-start", *to_start(t, "b"), *update, "u2", "--id-conflict-policy", "Fail"
        )
        await t.run(
            "workflow execute-update-with-start",
            *to_start(t, "b"),
            *update,
            "u3",
            "--id-conflict-policy",
            "UseExisting",
        )
        await t.run(
            "workflow start-update-with-start", *to_start(t, "b"), "--update-name", "hold", "--update-id", "u4",
            "--update-wait-for-stage", "accepted", "--id-conflict-policy", "UseExisting",
        )  # fmt: skip
        await t.run("workflow signal", "-w", t.id("b"), "--name", "depart")
        await t.run("workflow update result", "-w", t.id("b"), "--update-id", "u4")
        await t.run("workflow result", "-w", t.id("b"))


@scenario
async def resets(t: Terminal) -> None:
    async with worker(t):
        await t.run("workflow start", *to_start(t, "a"), "-i", '"up"')
        await t.run("workflow signal", "-w", t.id("a"), "--name", "stop", "-i", '"Pye Corner"')
        await t.run("workflow query", "-w", t.id("a"), "--name", "where")
        await t.run("workflow reset", "-w", t.id("a"), "-t", "FirstWorkflowTask", "--reason", "again")
        await t.run("workflow query", "-w", t.id("a"), "--name", "where")
        await t.run("workflow reset", "-w", t.id("a"), "-e", "4", "--reason", "again", "--reapply-exclude", "Signal")
        await t.run("workflow query", "-w", t.id("a"), "--name", "where")
        await t.run("workflow signal", "-w", t.id("a"), "--name", "depart")
        await t.run("workflow result", "-w", t.id("a"))
        await t.run("workflow reset", "-w", t.id("a"), "-t", "LastWorkflowTask", "--reason", "again", output="text")
        await t.run("workflow reset", "-w", t.id("a"), "-t", "LastContinuedAsNew", "--reason", "again")
        await t.run("workflow reset", "-w", t.id("a"), "-t", "BuildId", "--build-id", "nobody", "--reason", "again")
        await t.run("workflow reset", "-w", t.id("a"), "-e", "77", "--reason", "again")
        await t.run("workflow reset", "-w", t.id("nobody"), "-e", "4", "--reason", "again")
        await t.run(
            "workflow reset with-workflow-update-options", "-w", t.id("a"), "-t", "FirstWorkflowTask", "--reason", "again",
            "--versioning-override-behavior", "auto_upgrade",
        )  # fmt: skip
        await t.run("workflow describe", "-w", t.id("a"))


@scenario
async def pauses_and_changes_options(t: Terminal) -> None:
    await t.run("workflow start", *to_start(t, "a"))
    await t.run("workflow pause", "-w", t.id("a"), "--reason", "red signal")
    await t.run("workflow describe", "-w", t.id("a"))
    await t.run("workflow describe", "-w", t.id("a"), output="text")
    await t.run("workflow pause", "-w", t.id("a"))
    await t.run("workflow unpause", "-w", t.id("a"), "--reason", "green signal")
    await t.run("workflow unpause", "-w", t.id("a"))
    await t.run("workflow pause", "-w", t.id("nobody"))
    override = ("--versioning-override-behavior",)
    pinned = (*override, "pinned", "--versioning-override-deployment-name", "d", "--versioning-override-build-id", "b")
    await t.run("workflow update-options", "-w", t.id("a"), *override, "auto_upgrade")
    await t.run("workflow describe", "-w", t.id("a"))
    await t.run("workflow update-options", "-w", t.id("a"), *override, "unspecified")
    await t.run("workflow update-options", "-w", t.id("a"), *pinned)
    await t.run("workflow update-options", "-w", t.id("nobody"), *override, "auto_upgrade")
    await t.run("workflow describe", "-w", t.id("a"))
