"""Requests that are wrong in one way each. What the real server answers to them stands in `refusals.json`.

To record again (a Temporal dev server on the address): `python -m tests.api.refusals 127.0.0.1:7233`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.frontend.registry import REGISTRY, Served

if TYPE_CHECKING:
    from google.protobuf.message import Message

RECORDED = Path(__file__).with_name("refusals.json")

LONG = "x" * 1001
RUN = "01a20d28-154e-7ce0-b390-dac353ef0fba"
BIG = 2 * 1024 * 1024 + 1


def _payloads(size: int) -> dict[str, Any]:
    return {"payloads": [{"metadata": {"encoding": "YmluYXJ5L3BsYWlu"}, "data": _base64(size)}]}


def _base64(size: int) -> str:
    return "AAAA" * (size // 3 + 1)


def _attribute(value: object, kind: str = "") -> dict[str, Any]:
    import base64

    data = base64.b64encode(json.dumps(value).encode()).decode()
    metadata = {"encoding": base64.b64encode(b"json/plain").decode()}
    if kind:
        metadata["type"] = base64.b64encode(kind.encode()).decode()
    return {"metadata": metadata, "data": data}


_START: dict[str, Any] = {
    "workflowId": "refused",
    "workflowType": {"name": "T"},
    "taskQueue": {"name": "q"},
}

_EXECUTION = {"workflowId": "nobody"}


def _starts() -> dict[str, dict[str, Any]]:
    """Changes to a good start; None takes a field away."""
    retry: dict[str, dict[str, Any]] = {
        "negative initial interval": {"initialInterval": "-1s"},
        "coefficient below one": {"backoffCoefficient": 0.5},
        "negative maximum interval": {"maximumInterval": "-1s"},
        "maximum below initial": {"initialInterval": "10s", "maximumInterval": "1s"},
        "negative attempts": {"maximumAttempts": -1},
        "bad timeout type": {"nonRetryableErrorTypes": ["TemporalTimeout:Nope"]},
        "good timeout type but negative attempts": {
            "nonRetryableErrorTypes": ["TemporalTimeout:StartToClose"],
            "maximumAttempts": -1,
        },
    }
    changes: dict[str, dict[str, Any]] = {
        "no workflow id": {"workflowId": None},
        "long workflow id": {"workflowId": LONG},
        "no type": {"workflowType": None},
        "empty type": {"workflowType": {}},
        "long type": {"workflowType": {"name": LONG}},
        "no task queue": {"taskQueue": None},
        "empty task queue": {"taskQueue": {}},
        "long task queue": {"taskQueue": {"name": LONG}},
        "reserved task queue": {"taskQueue": {"name": "/_sys/q/1"}},
        "internal task queue": {"taskQueue": {"name": "temporal-sys-per-ns-tq"}},
        "negative execution timeout": {"workflowExecutionTimeout": "-1s"},
        "negative run timeout": {"workflowRunTimeout": "-1s"},
        "negative task timeout": {"workflowTaskTimeout": "-1s"},
        "long request id": {"requestId": LONG},
        "bad cron": {"cronSchedule": "nonsense"},
        "cron with six fields": {"cronSchedule": "* * * * * *"},
        "cron that never comes": {"cronSchedule": "0 0 31 2 *"},
        "cron with a bad descriptor": {"cronSchedule": "@sometimes"},
        "cron and delay": {"cronSchedule": "* * * * *", "workflowStartDelay": "1s"},
        "negative delay": {"workflowStartDelay": "-1s"},
        "terminate-if-running with a conflict policy": {"workflowIdReusePolicy": 4, "workflowIdConflictPolicy": 1},
        "terminate-existing with reject-duplicate": {"workflowIdReusePolicy": 3, "workflowIdConflictPolicy": 3},
        "callbacks without request id": {"onConflictOptions": {"attachCompletionCallbacks": True}},
        "unknown search attribute": {"searchAttributes": {"indexedFields": {"Nope": _attribute("x")}}},
        "system search attribute": {"searchAttributes": {"indexedFields": {"WorkflowId": _attribute("x")}}},
        "server's search attribute": {
            "searchAttributes": {"indexedFields": {"TemporalWorkerDeployment": _attribute("x")}}
        },
        "search attribute of another type": {"searchAttributes": {"indexedFields": {"CustomInt": _attribute("x")}}},
        "large search attribute": {"searchAttributes": {"indexedFields": {"CustomKeyword": _attribute("x" * 2100)}}},
        "negative priority": {"priority": {"priorityKey": -1}},
        "long fairness key": {"priority": {"fairnessKey": "k" * 65}},
        "negative fairness weight": {"priority": {"fairnessWeight": -1}},
        "too many links": {"links": [{"batchJob": {"jobId": "j"}}] * 11},
        "empty link": {"links": [{}]},
        "link without job": {"links": [{"batchJob": {}}]},
        "link without namespace": {"links": [{"workflowEvent": {}}]},
        "link without run": {"links": [{"workflowEvent": {"namespace": "n", "workflowId": "w"}}]},
        "large link": {"links": [{"batchJob": {"jobId": "j" * 4001}}]},
        "large input": {"input": _payloads(BIG)},
        "large memo": {"memo": {"fields": {"m": _payloads(BIG)["payloads"][0]}}},
        "time skipping": {"timeSkippingConfig": {"enabled": True}},
    }
    changes.update(_newer_parts())
    changes.update({f"retry policy: {name}": {"retryPolicy": policy} for name, policy in retry.items()})
    return changes


def _newer_parts() -> dict[str, dict[str, Any]]:
    """Callbacks and versioning overrides."""
    version = {"deploymentName": "a", "buildId": "b"}
    return {
        "callback without variant": {"completionCallbacks": [{}]},
        "callback with another scheme": {"completionCallbacks": [{"nexus": {"url": "ftp://x"}}]},
        "callback to a host that is not allowed": {"completionCallbacks": [{"nexus": {"url": "http://localhost/x"}}]},
        "callback without host": {"completionCallbacks": [{"nexus": {"url": "http://"}}]},
        "callback with a long url": {"completionCallbacks": [{"nexus": {"url": "http://localhost/" + "x" * 2000}}]},
        "internal callback": {"completionCallbacks": [{"internal": {"data": "AAAA"}}]},
        "pinned without version": {"versioningOverride": {"pinned": {}}},
        "pinned without behavior": {"versioningOverride": {"pinned": {"version": version}}},
        "pinned to a version nobody has": {"versioningOverride": {"pinned": {"behavior": 1, "version": version}}},
        "pinned, the older way, to nothing": {"versioningOverride": {"behavior": 1}},
        "pinned, the older way, to nonsense": {"versioningOverride": {"behavior": 1, "pinnedVersion": "nope"}},
        "auto-upgrade with a version": {"versioningOverride": {"behavior": 2, "pinnedVersion": "a.b"}},
        "override of no kind": {"versioningOverride": {}},
        "one-time override without version": {"versioningOverride": {"oneTime": {}}},
    }


def _requests() -> dict[str, tuple[str, dict[str, Any]]]:
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, change in _starts().items():
        found[f"start: {name}"] = ("StartWorkflowExecution", {**_START, **change})
        signal = {**_START, "signalName": "s", **change}
        if "OnConflict" not in name and "onConflictOptions" not in change and "completionCallbacks" not in change:
            found[f"signal with start: {name}"] = ("SignalWithStartWorkflowExecution", signal)
    found["signal with start: no signal name"] = ("SignalWithStartWorkflowExecution", {**_START})
    found["signal with start: long signal name"] = ("SignalWithStartWorkflowExecution", {**_START, "signalName": LONG})
    found["signal with start: conflict policy fail"] = (
        "SignalWithStartWorkflowExecution",
        {**_START, "signalName": "s", "workflowIdConflictPolicy": 1},
    )
    found.update(_on_executions())
    found.update(_updates())
    found.update(_activities_by_id())
    found.update(_task_queues())
    return found


def _on_executions() -> dict[str, tuple[str, dict[str, Any]]]:
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for method, field, rest in (
        ("SignalWorkflowExecution", "workflowExecution", {"signalName": "s"}),
        ("RequestCancelWorkflowExecution", "workflowExecution", {}),
        ("TerminateWorkflowExecution", "workflowExecution", {}),
        ("DeleteWorkflowExecution", "workflowExecution", {}),
        ("ResetWorkflowExecution", "workflowExecution", {"requestId": "r"}),
        (
            "UpdateWorkflowExecution",
            "workflowExecution",
            {"request": {"meta": {"updateId": "u"}, "input": {"name": "n"}}},
        ),
        ("DescribeWorkflowExecution", "execution", {}),
        ("QueryWorkflow", "execution", {"query": {"queryType": "t"}}),
        ("GetWorkflowExecutionHistory", "execution", {}),
        ("GetWorkflowExecutionHistoryReverse", "execution", {}),
        ("ResetStickyTaskQueue", "execution", {}),
    ):
        found[f"{method}: no execution"] = (method, {**rest})
        found[f"{method}: no workflow id"] = (method, {field: {}, **rest})
        found[f"{method}: bad run id"] = (method, {field: {"workflowId": "w", "runId": "nope"}, **rest})
    signal = {"workflowExecution": _EXECUTION}
    found["SignalWorkflowExecution: no name"] = ("SignalWorkflowExecution", signal)
    found["SignalWorkflowExecution: long name"] = ("SignalWorkflowExecution", {**signal, "signalName": LONG})
    found["SignalWorkflowExecution: long request id"] = (
        "SignalWorkflowExecution",
        {**signal, "signalName": "s", "requestId": LONG},
    )
    found["SignalWorkflowExecution: large input"] = (
        "SignalWorkflowExecution",
        {**signal, "signalName": "s", "input": _payloads(BIG)},
    )
    found["ResetWorkflowExecution: no request id"] = ("ResetWorkflowExecution", {"workflowExecution": _EXECUTION})
    found["ResetWorkflowExecution: long request id"] = (
        "ResetWorkflowExecution",
        {"workflowExecution": _EXECUTION, "requestId": LONG},
    )
    found["ResetWorkflowExecution: bad reapply type"] = (
        "ResetWorkflowExecution",
        {"workflowExecution": _EXECUTION, "requestId": "r", "resetReapplyType": 77},
    )
    found["QueryWorkflow: no query"] = ("QueryWorkflow", {"execution": _EXECUTION})
    found["QueryWorkflow: no type"] = ("QueryWorkflow", {"execution": _EXECUTION, "query": {}})
    found["QueryWorkflow: large arguments"] = (
        "QueryWorkflow",
        {"execution": _EXECUTION, "query": {"queryType": "t", "queryArgs": _payloads(BIG)}},
    )
    return found


def _updates() -> dict[str, tuple[str, dict[str, Any]]]:
    good = {"meta": {"updateId": "u"}, "input": {"name": "n"}}
    execution = {"workflowExecution": _EXECUTION}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "update: no request": ("UpdateWorkflowExecution", execution),
        "update: no meta": ("UpdateWorkflowExecution", {**execution, "request": {}}),
        "update: long id": ("UpdateWorkflowExecution", {**execution, "request": {**good, "meta": {"updateId": LONG}}}),
        "update: no input": ("UpdateWorkflowExecution", {**execution, "request": {"meta": {}}}),
        "update: no name": ("UpdateWorkflowExecution", {**execution, "request": {"meta": {}, "input": {}}}),
        "update: wait for admitted": (
            "UpdateWorkflowExecution",
            {**execution, "request": good, "waitPolicy": {"lifecycleStage": 1}},
        ),
        "poll update: no ref": ("PollWorkflowExecutionUpdate", {}),
        "poll update: no workflow id": ("PollWorkflowExecutionUpdate", {"updateRef": {}}),
        "poll update: bad run id": (
            "PollWorkflowExecutionUpdate",
            {"updateRef": {"workflowExecution": {"workflowId": "w", "runId": "bad"}, "updateId": "u"}},
        ),
        "options: no workflow id": ("UpdateWorkflowExecutionOptions", {}),
        "options: no mask": ("UpdateWorkflowExecutionOptions", {"workflowExecution": _EXECUTION}),
        "options: no options": (
            "UpdateWorkflowExecutionOptions",
            {"workflowExecution": _EXECUTION, "updateMask": "priority"},
        ),
    }
    start = {"startWorkflow": {**_START, "namespace": "default"}}
    update = {
        "updateWorkflow": {"namespace": "default", "workflowExecution": {"workflowId": "refused"}, "request": good}
    }
    operations: dict[str, list[dict[str, Any]]] = {
        "nothing": [],
        "start alone": [start],
        "twice a start": [start, start],
        "update first": [update, start],
        "bad start": [{"startWorkflow": {"namespace": "default"}}, update],
        "start in another namespace": [{"startWorkflow": {**_START, "namespace": "other"}}, update],
        "cron": [{"startWorkflow": {**_START, "namespace": "default", "cronSchedule": "* * * * *"}}, update],
        "eager": [{"startWorkflow": {**_START, "namespace": "default", "requestEagerExecution": True}}, update],
        "delay": [{"startWorkflow": {**_START, "namespace": "default", "workflowStartDelay": "1s"}}, update],
        "other workflow": [start, {"updateWorkflow": {"workflowExecution": {"workflowId": "b"}, "request": good}}],
        "bad update": [start, {"updateWorkflow": {"workflowExecution": {"workflowId": "refused"}}}],
        "update with a run": [
            start,
            {"updateWorkflow": {"workflowExecution": {"workflowId": "refused", "runId": RUN}, "request": good}},
        ],
        "update with a first run": [
            start,
            {
                "updateWorkflow": {
                    "workflowExecution": {"workflowId": "refused"},
                    "firstExecutionRunId": RUN,
                    "request": good,
                }
            },
        ],
        "both bad": [
            {"startWorkflow": {"workflowId": "refused"}},
            {"updateWorkflow": {"workflowExecution": _EXECUTION}},
        ],
    }
    for name, each in operations.items():
        found[f"multi operation: {name}"] = ("ExecuteMultiOperation", {"operations": each})
    return found


def _activities_by_id() -> dict[str, tuple[str, dict[str, Any]]]:
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for method in (
        "RecordActivityTaskHeartbeatById",
        "RespondActivityTaskCompletedById",
        "RespondActivityTaskFailedById",
        "RespondActivityTaskCanceledById",
    ):
        found[f"{method}: no activity id"] = (method, {"workflowId": "w"})
        if method != "RecordActivityTaskHeartbeatById":
            found[f"{method}: long identity"] = (method, {"workflowId": "w", "activityId": "a", "identity": LONG})
    for method in (
        "RespondWorkflowTaskCompleted",
        "RespondWorkflowTaskFailed",
        "RespondActivityTaskCompleted",
        "RespondActivityTaskFailed",
        "RespondActivityTaskCanceled",
        "RecordActivityTaskHeartbeat",
        "RespondQueryTaskCompleted",
    ):
        found[f"{method}: garbage token"] = (method, {"taskToken": "/////w=="})
    return found


def _task_queues() -> dict[str, tuple[str, dict[str, Any]]]:
    queue = {"taskQueue": {"name": "q"}}
    versioned = {"workerVersioningMode": 2}
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for method in ("PollWorkflowTaskQueue", "PollActivityTaskQueue"):
        found[f"{method}: no task queue"] = (method, {})
        found[f"{method}: no name"] = (method, {"taskQueue": {}})
        found[f"{method}: long name"] = (method, {"taskQueue": {"name": LONG}})
        found[f"{method}: reserved name"] = (method, {"taskQueue": {"name": "/_sys/q/1"}})
        found[f"{method}: long identity"] = (method, {**queue, "identity": LONG})
        found[f"{method}: half a deployment"] = (method, {**queue, "deploymentOptions": versioned})
        for what, deployment, build in (
            ("dot in the name", "a.b", "x"),
            ("colon in the name", "a:b", "x"),
            ("reserved name", "__a", "x"),
            ("reserved build", "a", "__x"),
            ("long build", "a", "x" * 600),
            ("long name", "a" * 600, "x"),
        ):
            found[f"{method}: deployment with {what}"] = (
                method,
                {**queue, "deploymentOptions": {**versioned, "deploymentName": deployment, "buildId": build}},
            )
        found[f"{method}: long build id"] = (method, {**queue, "workerVersionCapabilities": {"buildId": "x" * 300}})
        found[f"{method}: versioned without build id"] = (
            method,
            {**queue, "workerVersionCapabilities": {"useVersioning": True}},
        )
        found[f"{method}: sticky without normal name"] = (
            method,
            {"taskQueue": {"name": "q", "kind": 2}, "deploymentOptions": {}},
        )
    found["DescribeTaskQueue: no task queue"] = ("DescribeTaskQueue", {})
    found["DescribeTaskQueue: long name"] = ("DescribeTaskQueue", {"taskQueue": {"name": LONG}})
    found["DescribeTaskQueue: enhanced on sticky"] = (
        "DescribeTaskQueue",
        {"taskQueue": {"name": "q", "kind": 2}, "apiMode": 1},
    )
    found["ListTaskQueuePartitions: no task queue"] = ("ListTaskQueuePartitions", {})
    rate = {"rateLimit": {"requestsPerSecond": -1}}
    for kind in (1, 2):
        found[f"UpdateTaskQueueConfig: negative rate, type {kind}"] = (
            "UpdateTaskQueueConfig",
            {"taskQueue": "q", "taskQueueType": kind, "updateQueueRateLimit": rate},
        )
    found["UpdateTaskQueueConfig: long identity"] = ("UpdateTaskQueueConfig", {"taskQueue": "q", "identity": LONG})
    found["UpdateTaskQueueConfig: bad weight"] = (
        "UpdateTaskQueueConfig",
        {"taskQueue": "q", "setFairnessWeightOverrides": {"k": -1}},
    )
    return found


def cases() -> dict[str, tuple[str, Message]]:
    """Name of the case -> full RPC name and request."""
    found: dict[str, tuple[str, Message]] = {}
    for name, spec in REGISTRY.items():
        if spec.namespaced and spec.served is not Served.UNIMPLEMENTED:
            found[f"empty request: {spec.method}"] = (name, spec.request_type())
            if not spec.by_token and spec.method != "RegisterNamespace":
                found[f"unknown namespace: {spec.method}"] = (name, _named(spec.request_type(), "nowhere"))
                found[f"long namespace: {spec.method}"] = (name, _named(spec.request_type(), LONG))
    for name, (method, body) in _requests().items():
        request = getattr(service_pb, f"{method}Request")()
        json_format.ParseDict({key: value for key, value in body.items() if value is not None}, request)
        if "taskToken" not in body:
            request.namespace = "default"
        found[name] = (f"temporal.api.workflowservice.v1.WorkflowService/{method}", request)
    return found


def _named(request: Any, namespace: str) -> Message:
    request.namespace = namespace
    message: Message = request
    return message


def answer(code: str, message: str, details: list[Message]) -> dict[str, Any]:
    """The form in which answers are recorded and compared."""
    shown = [[each.DESCRIPTOR.full_name, json_format.MessageToDict(each)] for each in details]
    return {"code": code, "message": message, "details": shown}


def _record(address: str) -> None:
    """Ask a real server."""
    import grpc
    from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb

    from whistlestop.net.rpc_status import error_from_status

    channel = grpc.insecure_channel(address)

    def ask(full_name: str, request: Message) -> dict[str, Any]:
        call: Any = channel.unary_unary(f"/{full_name}", lambda m: m.SerializeToString(), lambda data: data)
        try:
            call(request, timeout=60)
        except grpc.RpcError as error:
            trailing: Any = error.trailing_metadata() or ()
            details = [v for k, v in trailing if k == "grpc-status-details-bin"]
            parsed = list(error_from_status(details[0]).details) if details else []
            return answer(error.code().name, error.details() or "", parsed)
        return answer("OK", "", [])

    ask(
        "temporal.api.operatorservice.v1.OperatorService/AddSearchAttributes",
        operator_pb.AddSearchAttributesRequest(
            namespace="default",
            search_attributes={"CustomInt": 3, "CustomKeyword": 2},  # type: ignore[dict-item]
        ),
    )
    recorded = {name: ask(full_name, request) for name, (full_name, request) in cases().items()}
    RECORDED.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    _record(sys.argv[1])
