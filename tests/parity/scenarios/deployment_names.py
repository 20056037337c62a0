"""Names of worker deployments and versions that are no good, in every RPC that takes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity.scenarios import limited_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

LONG = "l" * 90


def _requests(name: str, build_id: str) -> tuple[tuple[str, dict[str, Any]], ...]:
    version = {"deployment_version": {"deployment_name": name, "build_id": build_id}}
    both = {"deployment_name": name, "build_id": build_id}
    return (
        ("DescribeWorkerDeployment", {"deployment_name": name}),
        ("DescribeWorkerDeploymentVersion", version),
        ("SetWorkerDeploymentCurrentVersion", both),
        ("SetWorkerDeploymentRampingVersion", {**both, "percentage": 10}),
        ("SetWorkerDeploymentManager", {"deployment_name": name, "manager_identity": "m", "identity": "m"}),
        ("DeleteWorkerDeployment", {"deployment_name": name}),
        ("DeleteWorkerDeploymentVersion", version),
        ("CreateWorkerDeployment", {"deployment_name": name, "request_id": "r"}),
        ("CreateWorkerDeploymentVersion", {**version, "request_id": "r"}),
    )


def _is_compared(rpc: str, name: str, build_id: str) -> bool:
    """The real server looks for a workflow of its own when a version is to be deleted, and says so."""
    return rpc != "DeleteWorkerDeploymentVersion" or not build_id or name in (LONG, "", "__a")


@limited_scenario
async def names_that_are_no_good(p: Puppet) -> None:
    for name in (LONG, "", "a.b", "a:b", "__a"):
        for rpc, fields in _requests(name, "b"):
            if _is_compared(rpc, name, "b"):
                await p.refused(rpc, **fields)


@limited_scenario
async def builds_that_are_no_good(p: Puppet) -> None:
    for build_id in (LONG, "", "__b"):
        name = p.id(f"d{len(build_id)}")
        for rpc, fields in _requests(name, build_id):
            if "build_id" in str(fields) and _is_compared(rpc, name, build_id):
                await p.refused(rpc, **fields)
