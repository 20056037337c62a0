"""`temporal task-queue`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.cli.scenarios import scenario
from tests.cli.worker import worker

if TYPE_CHECKING:
    from tests.cli.terminal import Terminal


@scenario
async def described(t: Terminal) -> None:
    of = ("-t", t.task_queue)
    await t.run("task-queue describe", *of, shaped=_queues)
    await t.run("task-queue describe", *of, "--task-queue-type", "activity", "--disable-stats")
    await t.run("task-queue describe", *of, "--legacy-mode")
    await t.run("task-queue describe", *of, "--report-config", shaped=_queues)
    await t.run("task-queue list-partition", *of, record=False)
    await t.run("workflow start", "-w", t.id("a"), "--type", "Train", *of)
    await t.until(_waits, "task-queue describe", *of, shaped=_queues)
    async with worker(t):
        await t.run("workflow query", "-w", t.id("a"), "--name", "where")
        await t.until(
            lambda shown: "worker" in str(shown),
            "task-queue describe",
            *of,
            "--task-queue-type",
            "workflow",
            "--disable-stats",
            shaped=_queues,
        )
        await t.until(lambda shown: "worker" in str(shown), "task-queue describe", *of, "--legacy-mode", shaped=_queues)
        await t.run("task-queue describe", *of, "--report-reachability", "--select-unversioned", shaped=_queues)
        await t.run("task-queue describe", *of, "--select-build-id", "b1", shaped=_queues)
        await t.run("task-queue describe", *of, "--select-all-active", shaped=_queues)


def _waits(shown: Any) -> bool:
    return any(one["approximateBacklogCount"] for one in shown["stats"])


_ORDER = ("build_id", "task_queue_type", "identity", "partition")


def _queues(shown: Any) -> Any:
    """Types of tasks in a fixed order: the map that the real server has of them has none."""
    if isinstance(shown, dict):
        for key, value in shown.items():
            if isinstance(value, list):
                shown[key] = sorted(value, key=lambda one: [str(one.get(name)) for name in _ORDER])
    return shown


@scenario
async def configured(t: Terminal) -> None:
    of = ("-t", t.task_queue, "--task-queue-type", "activity")
    await t.run("task-queue config get", *of)
    await t.run("task-queue config set", *of, "--queue-rps-limit", "5.5", "--queue-rps-limit-reason", "slow")
    await t.run(
        "task-queue config set", *of, "--fairness-key-rps-limit-default", "2", "--fairness-key-rps-limit-reason", "fair"
    )
    await t.run("task-queue config set", *of, "--fairness-key-weight", "a=2", "--fairness-key-weight", "b=0.5")
    await t.run("task-queue config get", *of)
    await t.run("task-queue config get", *of, output="text")
    await t.run(
        "task-queue describe", "-t", t.task_queue, "--task-queue-type", "activity", "--report-config", "--disable-stats"
    )
    await t.run("task-queue config set", *of, "--queue-rps-limit", "default", "--fairness-key-weight", "a=default")
    await t.run("task-queue config set", *of, "--fairness-key-weight-clear-all")
    await t.run("task-queue config get", *of)
    await t.run("task-queue config set", *of)
    await t.run("task-queue config set", *of, "--queue-rps-limit", "-1")
    await t.run("task-queue config set", "-t", t.task_queue, "--task-queue-type", "workflow", "--queue-rps-limit", "1")
    await t.run("task-queue config set", "-t", t.task_queue, "--task-queue-type", "nexus", "--queue-rps-limit", "1")


@scenario
async def version_sets(t: Terminal) -> None:
    """The oldest worker versioning, which both servers have switched on."""
    of = ("-t", t.task_queue)
    await t.run("task-queue get-build-ids", *of)
    await t.run("task-queue update-build-ids promote-set", *of, "--build-id", "b1")
    await t.run("task-queue update-build-ids add-new-default", *of, "--build-id", "b1")
    await t.run(
        "task-queue update-build-ids add-new-compatible", *of, "--build-id", "b2", "--existing-compatible-build-id", "b1",
    )  # fmt: skip
    await t.run("task-queue update-build-ids promote-set", *of, "--build-id", "b1")
    await t.run("task-queue update-build-ids promote-id-in-set", *of, "--build-id", "b1")
    await t.run("task-queue update-build-ids add-new-default", *of, "--build-id", "b3")
    await t.run("task-queue get-build-ids", *of)
    await t.run("task-queue get-build-ids", *of, "--max-sets", "1", output="text")
    for build_id in ("b1", "b3"):  # of several, the real server answers in no order
        await t.run("task-queue get-build-id-reachability", *of, "--build-id", build_id)
    await t.run("task-queue get-build-id-reachability", *of, "--build-id", "b1", output="text")


@scenario
async def version_rules(t: Terminal) -> None:
    """The versioning by rules, likewise."""
    of = ("-t", t.task_queue)
    await t.run("task-queue versioning get-rules", *of)
    await t.run("task-queue versioning delete-assignment-rule", *of, "-i", "0", "-y")
    await t.run("task-queue versioning insert-assignment-rule", *of, "--build-id", "b1", "-y")
    await t.run("task-queue versioning replace-assignment-rule", *of, "--build-id", "b1", "-i", "0", "-y")
    await t.run("task-queue versioning delete-assignment-rule", *of, "-i", "0", "-y")
    await t.run(
        "task-queue versioning add-redirect-rule", *of, "--source-build-id", "b1", "--target-build-id", "b2", "-y"
    )
    await t.run(
        "task-queue versioning replace-redirect-rule", *of, "--source-build-id", "b1", "--target-build-id", "b2", "-y"
    )
    await t.run("task-queue versioning get-rules", *of, output="text")
    await t.run("task-queue describe", *of, "--select-build-id", "b2", "--report-reachability", shaped=_queues)
    await t.run("task-queue versioning delete-redirect-rule", *of, "--source-build-id", "b1", "-y")
    await t.run("task-queue versioning commit-build-id", *of, "--build-id", "b1", "-y")
    await t.run("task-queue versioning commit-build-id", *of, "--build-id", "b2", "--force", "-y")
    await t.run("task-queue versioning get-rules", *of)
