"""`temporal worker`: workers and worker deployments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import WorkerDeploymentConfig

from tests.cli.scenarios import scenario
from tests.cli.worker import worker

if TYPE_CHECKING:
    from tests.cli.terminal import Terminal


_POOL = (
    "--gcp-cloud-run-project", "p", "--gcp-cloud-run-region", "r", "--gcp-cloud-run-worker-pool", "w",
    "--gcp-cloud-run-service-account", "s",
)  # fmt: skip


def _known(listed: Any) -> Any:
    return [_steady(one) for one in listed]


def _steady(one: Any) -> Any:
    """Without what a heartbeat tells and the next one does not, or otherwise: slots, pollers, usage."""
    told = one["worker_heartbeat"]
    anew = {key for key in told if key.endswith(("_info", "_time", "_tasks", "_heartbeat")) or "sticky" in key}
    anew.add("environment")  # told once
    return {**one, "worker_heartbeat": {key: value for key, value in told.items() if key not in anew}}


def _drained(deployment: Any) -> Any:
    """A version that nobody is pinned to has drained here at once, there after minutes."""
    for one in deployment["version_summaries"] or ():
        one["drainage_status"] = one["drainage_status"].replace("draining", "drained")
    return deployment


@scenario
async def alive(t: Terminal) -> None:
    of = ("-q", f"TaskQueue = '{t.task_queue}'")
    async with worker(t):
        listed = await t.until(lambda listed: len(listed) == 1, "worker list", *of, shaped=_known)
        await t.run("worker list", *of, output="text", record=False)
        await t.run("worker count", *of)
        key = str(listed.json[0]["workerHeartbeat"]["workerInstanceKey"])
        await t.run("worker describe", "--worker-instance-key", key, shaped=_steady)
        await t.run("worker describe", "--worker-instance-key", key, output="text", record=False)
    await t.run("worker describe", "--worker-instance-key", "nobody")
    await t.run("worker list", "-q", "Nonsense = 1")
    await t.run("worker count", "-q", "TaskQueue = 'nobody'")


def _queues(version: Any) -> Any:
    """In a fixed order: the map that the real server has of them has none."""
    version["task_queues_infos"].sort(key=lambda one: str(one["type"]))
    return version


@scenario
async def deployments(t: Terminal) -> None:
    name = t.id("d")
    of, version = ("-d", name), ("--deployment-name", name, "--build-id")
    config = WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(name, "b1"),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )
    async with worker(t, deployment_config=config):
        await t.until(lambda shown: "b1" in str(shown), "worker deployment describe", *of)
        await t.run("worker deployment set-current-version", *version, "b1", "-y")
        await t.run("worker deployment set-current-version", *version, "b2", "-y")
        await t.run("worker deployment set-ramping-version", *version, "b1", "--percentage", "5", "-y")
        await t.run("worker deployment describe", *of, shaped=_drained)
        await t.run("worker deployment describe", *of, output="text")
        await t.run("worker deployment describe-version", *version, "b1", shaped=_queues)
        await t.run("worker deployment describe-version", *version, "b1", "--report-task-queue-stats", shaped=_queues)
        await t.run("workflow execute", "-w", t.id("a"), "--type", "Weigh", "-t", t.task_queue, "-i", '"coal"')
        await t.run("workflow describe", "-w", t.id("a"))
        await t.run("workflow start", "-w", t.id("b"), "--type", "Train", "-t", t.task_queue)
        override = ("--versioning-override-deployment-name", name, "--versioning-override-build-id", "b1")
        await t.run("workflow update-options", "-w", t.id("b"), "--versioning-override-behavior", "pinned", *override)
        await t.run("workflow query", "-w", t.id("b"), "--name", "where")
        await t.run("workflow describe", "-w", t.id("b"))
        await t.run("workflow terminate", "-w", t.id("b"))
        await t.run("worker deployment update-version-metadata", *version, "b1", "--metadata", 'driver="me"')
        await t.run("worker deployment update-version-metadata", *version, "b1", "--remove-entries", "driver")
        await t.run(
            "worker deployment manager-identity set", "--deployment-name", name, "--manager-identity", "them", "-y"
        )
        await t.run("worker deployment set-current-version", "--deployment-name", name, "--unversioned", "-y")
        await t.run("worker deployment manager-identity unset", "--deployment-name", name, "-y")
        await t.run("worker deployment set-current-version", "--deployment-name", name, "--unversioned", "-y")
        await t.run("worker deployment set-ramping-version", *version, "b1", "--percentage", "5", "-y")
        await t.run("worker deployment set-ramping-version", "--deployment-name", name, "--delete", "-y")
        await t.run("worker deployment describe", *of, shaped=_drained)
        await t.run("worker deployment delete-version", *version, "b1", ours="since it is draining")
        await t.run("worker deployment delete", *of)
    await t.run("worker deployment list", shaped=lambda every: [one for one in every if one["name"] == name])


@scenario
async def deployments_made_by_hand(t: Terminal) -> None:
    name = t.id("d")
    version = ("--deployment-name", name, "--build-id")
    await t.run("worker deployment create", "-d", name)
    await t.run("worker deployment create", "-d", name)
    await t.run("worker deployment describe", "-d", name, shaped=_drained)
    await t.run("worker deployment create-version", *version, "b1")
    await t.run("worker deployment create-version", *version, "b1", *_POOL, ours="default: ")
    await t.run("worker deployment update-version-compute-config", *version, "b1", "--remove")
    await t.run("worker deployment update-version-compute-config", *version, "nobody", "--remove")
    await t.run("worker deployment describe-version", *version, "b1")
    await t.run("worker deployment delete-version", *version, "b1", "--skip-drainage")
    await t.run(
        "worker deployment set-ramping-version", *version, "b9", "--percentage", "7", "--allow-no-pollers", "-y"
    )
    await t.run("worker deployment set-current-version", *version, "b8", "--allow-no-pollers", "-y")
    await t.run(
        "worker deployment set-ramping-version", "--deployment-name", name, "--unversioned", "--percentage", "7", "-y"
    )
    await t.run("worker deployment describe", "-d", name, shaped=_drained)
    await t.run("worker deployment set-ramping-version", "--deployment-name", name, "--delete", "-y")
    await t.run("worker deployment describe", "-d", name, shaped=_drained)
    await t.run("worker deployment delete", "-d", name)
    for verb in ("describe", "delete"):
        await t.run(f"worker deployment {verb}", "-d", t.id("nobody"))
    await t.run("worker deployment describe-version", "--deployment-name", t.id("nobody"), "--build-id", "b")
    await t.run(
        "worker deployment delete-version",
        "--deployment-name",
        t.id("nobody"),
        "--build-id",
        "b",
        ours="no Worker Deployment found",
    )
    await t.run("worker deployment set-current-version", "--deployment-name", t.id("nobody"), "--build-id", "b", "-y")
    await t.run(
        "worker deployment set-ramping-version",
        "--deployment-name",
        t.id("nobody"),
        "--build-id",
        "b",
        "-y",
        "--percentage",
        "1",
    )
    await t.run("worker deployment manager-identity set", "--deployment-name", t.id("nobody"), "--self", "-y")
    await t.run(
        "worker deployment update-version-metadata",
        "--deployment-name",
        t.id("nobody"),
        "--build-id",
        "b",
        "--metadata",
        "a=1",
        ours="Worker Deployment Version not found",
    )
