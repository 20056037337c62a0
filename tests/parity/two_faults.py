"""Requests that are wrong in one way or in two, made from the descriptors of all RPCs: which fault is told of?

A base request of each RPC names things that are not there. A fault changes one field of it: it is left out, too long, of
another kind. Requests have one fault, or two in different fields.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from whistlestop.frontend.registry import REGISTRY, Served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

    from whistlestop.frontend.registry import RpcSpec

LONG = "x" * 1001
MOST_PAIRS = 60
"""Of one RPC; chosen evenly from all."""
LEFT_OUT = frozenset({
    # They wait, or change what the other requests are answered by.
    "PollWorkflowTaskQueue", "PollActivityTaskQueue", "PollNexusTaskQueue", "GetSystemInfo", "ShutdownWorker",
    "DeleteNamespace", "RegisterNamespace", "UpdateNamespace", "DeprecateNamespace", "ListNamespaces",
    "AddSearchAttributes", "RemoveSearchAttributes", "CreateNexusEndpoint",
    # The real server answers nearly all of these with its rate limits.
    "UpdateWorkerVersioningRules", "UpdateWorkerBuildIdCompatibility", "SetWorkerDeploymentCurrentVersion",
    "SetWorkerDeploymentRampingVersion", "SetWorkerDeploymentManager", "CreateWorkerDeployment",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one field."""

    field: str
    what: str
    apply: Callable[[Any], None]

    def __str__(self) -> str:
        return f"{self.field} {self.what}"


def requests(spec: RpcSpec) -> Iterator[tuple[str, Message]]:
    """All requests of one RPC, with what is wrong with them."""
    faults = list(_faults(spec))
    pairs = [pair for pair in itertools.combinations(faults, 2) if pair[0].field != pair[1].field]
    step = max(1, -(-len(pairs) // MOST_PAIRS))
    for chosen in (*((fault,) for fault in faults), *pairs[::step]):
        request = _base(spec)
        for fault in chosen:
            fault.apply(request)
        yield " + ".join(map(str, chosen)), request


def rpcs() -> list[RpcSpec]:
    """Those that are served, and can be asked anything."""
    return [
        spec for spec in REGISTRY.values() if spec.served is not Served.UNIMPLEMENTED and spec.method not in LEFT_OUT
    ]


def _setter(name: str, value: Any, part: str = "") -> Callable[[Any], None]:
    def apply(request: Any) -> None:
        setattr(getattr(request, part) if part else request, name, value)

    return apply


def _clearer(name: str, part: str = "") -> Callable[[Any], None]:
    def apply(request: Any) -> None:
        (getattr(request, part) if part else request).ClearField(name)

    return apply


def _faults(spec: RpcSpec) -> Iterator[Fault]:
    descriptor: Any = spec.request_type.DESCRIPTOR
    for field in descriptor.fields:
        name = field.name
        if field.is_repeated:
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            yield Fault(name, "missing", _clearer(name))
            yield Fault(name, "long", _setter(name, LONG))
            if name == "namespace":
                yield Fault(name, "unknown", _setter(name, "nowhere"))
            elif name in ("run_id", "first_execution_run_id"):
                yield Fault(name, "bad", _setter(name, "nope"))
            elif name == "query":
                yield Fault(name, "bad", _setter(name, "Nope = 1"))
        elif name == "task_token":
            yield Fault(name, "missing", _clearer(name))
            yield Fault(name, "garbage", _setter(name, b"garbage"))
        elif field.type == FieldDescriptor.TYPE_ENUM:
            yield Fault(name, "unknown", _setter(name, 99))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from _faults_within(name, field.message_type.full_name)


def _faults_within(name: str, kind: str) -> Iterator[Fault]:
    yield Fault(name, "missing", _clearer(name))
    if kind == "google.protobuf.Duration":
        yield Fault(name, "negative", _setter("seconds", -5, name))
    elif kind.endswith(".WorkflowExecution"):
        yield Fault(name, "without id", _clearer("workflow_id", name))
        yield Fault(name, "with a long id", _setter("workflow_id", LONG, name))
        yield Fault(name, "with a bad run", _setter("run_id", "nope", name))
    elif kind.endswith((".TaskQueue", ".WorkflowType", ".ActivityType")):
        yield Fault(name, "without name", _clearer("name", name))
        yield Fault(name, "long", _setter("name", LONG, name))
        if kind.endswith(".TaskQueue"):
            yield Fault(name, "reserved", _setter("name", "/_sys/q/1", name))


def _base(spec: RpcSpec) -> Any:
    request: Any = spec.request_type()
    absent = f"absent-{spec.method}"
    for field in request.DESCRIPTOR.fields:
        name = field.name
        if field.is_repeated:
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            values = {"namespace": "default", "identity": "me", "request_id": "r", "query": "WorkflowId = 'x'"}
            if (name.endswith("_id") and name not in ("run_id", "first_execution_run_id", "request_id")) or name in (
                "signal_name",
                "endpoint",
                "service",
                "operation",
                "deployment_name",
            ):
                setattr(request, name, absent)
            elif name in values:
                setattr(request, name, values[name])
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            kind = field.message_type.full_name
            if kind.endswith(".WorkflowExecution"):
                getattr(request, name).workflow_id = absent
            elif kind.endswith((".TaskQueue", ".WorkflowType", ".ActivityType")):
                getattr(request, name).name = "absent"
    if "schedule_to_close_timeout" in request.DESCRIPTOR.fields_by_name:
        request.schedule_to_close_timeout.seconds = 60
    return request
