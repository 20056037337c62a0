"""`temporal operator`: the cluster, namespaces, Nexus endpoints, search attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.cli.scenarios import scenario

if TYPE_CHECKING:
    from tests.cli.terminal import Terminal


_SINGLE = "this server is a single cluster; remote clusters are not supported"


def _without_addresses(listed: Any) -> Any:
    """Ours tells none: nobody connects to it as a remote cluster."""
    for one in listed:
        one.pop("address", None), one.pop("http_address", None)
    return listed


@scenario
async def cluster(t: Terminal) -> None:
    await t.run("operator cluster health")
    await t.run("operator cluster describe")
    await t.run("operator cluster describe", "--detail")
    await t.run("operator cluster system")
    await t.run("operator cluster list", shaped=_without_addresses)
    await t.run("operator cluster upsert", "--frontend-address", "127.0.0.1:1", "--enable-connection", ours=_SINGLE)
    await t.run("operator cluster remove", "--name", "nobody", ours=_SINGLE)


@scenario
async def namespaces(t: Terminal) -> None:
    name = t.id("ns")
    await t.run(
        "operator namespace create", "-n", name, "--retention", "72h", "--description", "for trains", "--email",
        "guard@example.com", "--data", "line=main",
    )  # fmt: skip
    await t.run("operator namespace create", "-n", name)
    await t.run("operator namespace create", "-n", t.id("short"), "--retention", "1s")
    await t.run("operator namespace create", "-n", "no good")
    await t.until(lambda _: True, "operator namespace describe", "-n", name)
    await t.run("operator namespace describe", "-n", name, output="text")
    await t.run(
        "operator namespace update",
        "-n",
        name,
        "--retention",
        "48h",
        "--data",
        "gauge=standard",
        "--email",
        "x@example.com",
    )
    await t.until(lambda shown: "standard" in str(shown), "operator namespace describe", "-n", name)
    await t.run("operator namespace update", "-n", t.id("nobody"), "--email", "x@example.com")
    await t.run("operator namespace update", "-n", name, "--promote-global")
    await t.run("operator namespace describe", "-n", t.id("nobody"))
    await t.run("operator namespace describe", "--namespace-id", "00000000-0000-0000-0000-000000000000")
    await t.until(
        lambda listed: name in str(listed), "operator namespace list", shaped=lambda every: _named(every, name)
    )
    await t.run("operator namespace delete", "-n", name, "-y", output="text")
    await t.run("operator namespace delete", "-n", t.id("nobody"), "-y", output="text")


def _named(every: list[Any], name: str) -> list[Any]:
    return [one for one in every if one["namespace_info"]["name"] == name]


@scenario
async def search_attributes(t: Terminal) -> None:
    name = ("--name", t.id("Line").replace("-", ""))
    await t.run("operator search-attribute create", *name, "--type", "Keyword")
    await t.run("operator search-attribute create", *name, "--type", "Keyword")
    await t.run("operator search-attribute create", *name, "--type", "Int")
    await t.run("operator search-attribute create", "--name", "WorkflowId", "--type", "Keyword")
    await t.until(
        lambda listed: name[1] in str(listed), "operator search-attribute list", shaped=lambda all_: _one(all_, name[1])
    )
    await t.run("operator search-attribute remove", *name, "-y")
    await t.run("operator search-attribute remove", *name, "-y")
    await t.run("operator search-attribute remove", "--name", "WorkflowId", "-y")


def _one(listed: Any, name: str) -> Any:
    """The system's own, and the one that was made."""
    listed["custom_attributes"] = {key: value for key, value in listed["custom_attributes"].items() if key == name}
    return listed


@scenario
async def nexus_endpoints(t: Terminal) -> None:
    of = ("--name", t.id("endpoint"))
    target = ("--target-namespace", "default", "--target-task-queue", t.task_queue)
    await t.run("operator nexus endpoint create", *of, *target, "--description", "the yard")
    await t.run("operator nexus endpoint create", *of, *target)
    await t.run("operator nexus endpoint create", "--name", "x", *target)
    await t.run("operator nexus endpoint create", "--name", t.id("other"), *target, "--namespace", "nowhere")
    await t.run(
        "operator nexus endpoint create",
        "--name",
        t.id("other"),
        "--target-namespace",
        "nowhere",
        "--target-task-queue",
        "q",
    )
    await t.run("operator nexus endpoint get", *of)
    await t.run("operator nexus endpoint get", *of, output="text")
    await t.run(
        "operator nexus endpoint list", shaped=lambda every: [one for one in every if one["spec"]["name"] == of[1]]
    )
    await t.run("operator nexus endpoint update", *of, "--target-url", "https://example.com/yard")
    await t.run("operator nexus endpoint update", *of, "--unset-description")
    await t.run("operator nexus endpoint get", *of, shaped=_without_creation)
    await t.run("operator nexus endpoint delete", *of)
    await t.run("operator nexus endpoint delete", *of)
    await t.run("operator nexus endpoint get", *of)
    await t.run("operator nexus endpoint update", *of, "--unset-description")


def _without_creation(endpoint: Any) -> Any:
    """The real server forgets it with the first update."""
    endpoint.pop("created_time", None)
    return endpoint
