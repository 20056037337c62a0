"""Namespaces, search attributes, the cluster, task queues."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.parity.puppet import Refused, cases, seconds
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


@scenario
async def system_info(p: Puppet) -> None:
    await p.call("GetSystemInfo")


@scenario
async def cluster_info(p: Puppet) -> None:
    answer = await p.call("GetClusterInfo", record=False)
    p.note(
        "has",
        [
            bool(answer.cluster_id),
            bool(answer.server_version),
            bool(answer.cluster_name),
            answer.history_shard_count > 0,
        ],
    )


@scenario
async def default_namespace(p: Puppet) -> None:
    answer = await p.call("DescribeNamespace", record=False)
    # Not compared: search attribute aliases and counts that other scenarios change, and clusters' names.
    p.note("state", answer.namespace_info.state)
    info = p.normalised(answer.namespace_info)
    p.note("capabilities", info["capabilities"])
    p.note("limits", info["limits"])
    p.note("global", answer.is_global_namespace)
    p.note("retention", answer.config.workflow_execution_retention_ttl.seconds)


@scenario
async def unknown_namespace(p: Puppet) -> None:
    await p.refused("DescribeNamespace", namespace="nowhere")
    await p.refused("DescribeNamespace", namespace="", id="01a20d28-154e-7ce0-b390-dac353ef0fba")
    await p.refused("DescribeNamespace", namespace="")


async def registered(p: Puppet, name: str, **fields: Any) -> None:
    await p.call(
        "RegisterNamespace",
        namespace=name,
        description="about",
        owner_email="o@example.org",
        data={"k": "v"},
        **{"workflow_execution_retention_period": seconds(86400 * 2), **fields},
    )
    for _ in range(3000):
        try:
            await p.call("DescribeNamespace", record=False, namespace=name)
        except Refused:
            await asyncio.sleep(0.1)
        else:
            break


@slow_scenario
async def namespace_is_registered(p: Puppet) -> None:
    name = p.id("ns")
    await registered(p, name)
    await p.call("DescribeNamespace", namespace=name)
    await p.refused("RegisterNamespace", namespace=name, workflow_execution_retention_period=seconds(86400))


@slow_scenario
async def namespace_is_updated(p: Puppet) -> None:
    name = p.id("ns")
    await registered(p, name)
    await p.call(
        "UpdateNamespace",
        namespace=name,
        update_info={"description": "else", "data": {"k2": "v2"}},
        config={"workflow_execution_retention_ttl": seconds(86400 * 3)},
    )
    await p.attempt("UpdateNamespace", namespace=name, config={"workflow_execution_retention_ttl": seconds(60)})
    await p.refused("UpdateNamespace", namespace="nowhere", update_info={"description": "x"})
    await p.refused("UpdateNamespace", namespace="")


@slow_scenario
async def namespace_is_deprecated(p: Puppet) -> None:
    name = p.id("ns")
    await registered(p, name)
    await p.attempt("DeprecateNamespace", namespace=name)
    await p.refused("DeprecateNamespace", namespace="nowhere")


@scenario
async def bad_namespaces(p: Puppet) -> None:
    day = seconds(86400)
    for fields in cases(
        {"namespace": ""},
        {"namespace": "x" * 1001, "workflow_execution_retention_period": day},
        {"namespace": "no spaces", "workflow_execution_retention_period": day},
        {"namespace": "-dash", "workflow_execution_retention_period": day},
        {"namespace": p.id("a")},
        {"namespace": p.id("b"), "workflow_execution_retention_period": seconds(60)},
        {"namespace": p.id("c"), "workflow_execution_retention_period": seconds(-86400)},
        {"namespace": p.id("d"), "workflow_execution_retention_period": day, "is_global_namespace": True},
        {"namespace": p.id("e"), "workflow_execution_retention_period": day, "active_cluster_name": "elsewhere"},
        {"namespace": "temporal-system", "workflow_execution_retention_period": day},
        {"namespace": "default", "workflow_execution_retention_period": day},
    ):
        await p.attempt("RegisterNamespace", **fields)


@scenario
async def namespaces_are_listed(p: Puppet) -> None:
    answer = await p.call("ListNamespaces", record=False, page_size=100)
    names = [described.namespace_info.name for described in answer.namespaces]
    p.note("default is there", "default" in names)
    p.note("the system's is hidden", "temporal-system" not in names)
    answer = await p.attempt("ListNamespaces", record=False, next_page_token=b"nonsense")
    p.note("any token is taken", answer is not None)


@scenario
async def search_attributes(p: Puppet) -> None:
    answer = await p.call("ListSearchAttributes", record=False)
    p.note("custom", sorted(answer.custom_attributes.items()))
    p.note("system", sorted(answer.system_attributes.items()))
    await p.refused("AddSearchAttributes")
    await p.attempt("AddSearchAttributes", search_attributes={"ParityKeyword": "INDEXED_VALUE_TYPE_KEYWORD"})
    await p.attempt("AddSearchAttributes", search_attributes={"ParityKeyword": "INDEXED_VALUE_TYPE_INT"})
    await p.attempt("AddSearchAttributes", search_attributes={"StartTime": "INDEXED_VALUE_TYPE_DATETIME"})
    await p.attempt("AddSearchAttributes", search_attributes={"ParityNone": "INDEXED_VALUE_TYPE_UNSPECIFIED"})
    await p.refused("RemoveSearchAttributes")
    await p.attempt("RemoveSearchAttributes", search_attributes=["NoSuchAttribute"])
    await p.attempt("RemoveSearchAttributes", search_attributes=["StartTime"])
    await p.attempt("ListSearchAttributes", namespace="nowhere")
    await p.attempt("ListSearchAttributes", namespace="")


@scenario
async def old_search_attributes_call(p: Puppet) -> None:
    answer = await p.attempt("GetSearchAttributes", record=False)
    p.note("has", answer is not None and "WorkflowId" in answer.keys)


@scenario
async def other_operator_calls(p: Puppet) -> None:
    await p.attempt("DeleteNamespace", namespace="")
    await p.attempt("DeleteNamespace", namespace="nowhere")


@scenario
async def clusters_are_listed(p: Puppet) -> None:
    answer = await p.call("ListClusters", record=False)
    p.note("clusters", len(answer.clusters))
    p.note("enabled", [cluster.is_connection_enabled for cluster in answer.clusters])


@scenario
async def task_queue_with_a_poller(p: Puppet) -> None:
    await p.start()
    await p.workflow_task(record=False)
    answer = await p.call(
        "DescribeTaskQueue", record=False, task_queue={"name": p.task_queue}, task_queue_type="TASK_QUEUE_TYPE_WORKFLOW"
    )
    p.note("pollers", sorted({poller.identity for poller in answer.pollers}))
    answer = await p.call(
        "DescribeTaskQueue", record=False, task_queue={"name": p.task_queue}, task_queue_type="TASK_QUEUE_TYPE_ACTIVITY"
    )
    p.note("pollers", sorted({poller.identity for poller in answer.pollers}))
    await p.terminate()


@scenario
async def wrong_task_queues(p: Puppet) -> None:
    await p.refused("DescribeTaskQueue")
    await p.refused("DescribeTaskQueue", task_queue={"name": "x" * 1001})
    await p.refused("DescribeTaskQueue", task_queue={"name": "q"}, namespace="nowhere")
    await p.attempt("DescribeTaskQueue", task_queue={"name": p.task_queue})
    await p.attempt("ListTaskQueuePartitions")
    await p.attempt("ListTaskQueuePartitions", task_queue={"name": "x" * 1001})


@scenario
async def worker_shuts_down(p: Puppet) -> None:
    await p.call("ShutdownWorker", sticky_task_queue=p.id("sticky"), identity="worker", reason="why")
    await p.attempt("ShutdownWorker", sticky_task_queue="", identity="worker")
    await p.attempt("ShutdownWorker", namespace="nowhere", sticky_task_queue="x")
