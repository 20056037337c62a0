"""The registry says something about every RPC there is."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

import pytest
from temporalio.api.operatorservice.v1 import service_pb2 as operator_pb
from temporalio.api.workflowservice.v1 import service_pb2 as workflow_pb

from whistlestop.common.proto import worker_pb2
from whistlestop.frontend import api, registry
from whistlestop.frontend.own_rpcs import OWN_REGISTRY
from whistlestop.frontend.registry import REGISTRY, Feature, Served
from whistlestop.history import api as history_api

_SERVICES = [
    workflow_pb.DESCRIPTOR.services_by_name["WorkflowService"],
    operator_pb.DESCRIPTOR.services_by_name["OperatorService"],
]


def test_every_rpc_of_the_descriptors_is_in_the_registry() -> None:
    """Nothing is missing and nothing is made up."""
    expected = {f"{service.full_name}/{method.name}" for service in _SERVICES for method in service.methods}
    assert expected == set(REGISTRY)


def test_every_rpc_of_our_own_is_in_its_registry() -> None:
    """With the types that its `.proto` file says. A missing one would be answered with UNIMPLEMENTED."""
    service = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"]
    declared = {
        f"{service.full_name}/{each.name}": (each.input_type.full_name, each.output_type.full_name)
        for each in service.methods
    }
    served = {
        name: (spec.request_type.DESCRIPTOR.full_name, spec.response_type.DESCRIPTOR.full_name)
        for name, spec in OWN_REGISTRY.items()
    }
    assert served == declared, "the RPCs of worker.proto need an RpcSpec in OWN_REGISTRY of frontend/own_rpcs.py"


def test_history_has_a_handler_for_what_it_serves() -> None:
    """The registry sends a call there, whether it is ours or Temporal's."""
    served = {spec.method for spec in (REGISTRY | OWN_REGISTRY).values() if spec.served is Served.HISTORY}
    missing = served - set(history_api.MODULE_OF)
    assert missing == set(), "add them to a module of history/api and to _METHODS_OF of history/api/__init__.py"


def test_no_rpc_is_listed_twice() -> None:
    """A second line would silently win."""
    lines = [*registry._WORKFLOW_RPCS, *registry._OPERATOR_RPCS]
    assert len(lines) == len({name for name, _, _ in lines})


def test_types_are_those_of_the_descriptors() -> None:
    """Requests and responses belong to their method."""
    for service in _SERVICES:
        for method in service.methods:
            spec = REGISTRY[f"{service.full_name}/{method.name}"]
            assert (method.input_type.full_name, method.output_type.full_name) == (
                spec.request_type.DESCRIPTOR.full_name,
                spec.response_type.DESCRIPTOR.full_name,
            )


def _tables(name: str) -> dict[str, dict[str, Any]]:
    """Return the tables of a name by the name of their module."""
    prefix = f"{api.__name__}."
    modules = {
        module.name.removeprefix(prefix): import_module(module.name)
        for module in pkgutil.walk_packages(api.__path__, prefix)
    }
    return {module: getattr(code, name) for module, code in modules.items() if hasattr(code, name)}


def _methods(name: str) -> list[str]:
    return [method for table in _tables(name).values() for method in table]


def test_the_frontend_has_a_handler_for_what_it_serves_itself() -> None:
    """And for nothing else."""
    expected = {spec.method for spec in REGISTRY.values() if spec.served is Served.FRONTEND}
    assert expected == set(_methods("HANDLERS"))
    assert not expected & set(_methods("AROUND"))


def test_validators_belong_to_known_rpcs() -> None:
    """A misspelt name would validate nothing."""
    known = {spec.method for spec in (REGISTRY | OWN_REGISTRY).values()}
    assert set(_methods("VALIDATORS")) | set(_methods("AROUND")) <= known


@pytest.mark.parametrize("name", ["HANDLERS", "AROUND", "VALIDATORS"])
def test_a_method_stands_in_one_table_of_a_kind(name: str) -> None:
    methods = _methods(name)
    assert len(methods) == len(set(methods))


def test_modules_are_imported_for_all_that_is_in_their_tables() -> None:
    """What `api.MODULES_OF` does not name would never be done."""
    expected: dict[str, set[str]] = {}
    for name in ("HANDLERS", "AROUND", "VALIDATORS"):
        for module, table in _tables(name).items():
            for method in table:
                expected.setdefault(method, set()).add(module)
    found = {method: set(modules) for method, modules in api.MODULES_OF.items()}
    assert found == expected, "_METHODS_OF of frontend/api/__init__.py must name each method under each of its modules"


@pytest.mark.parametrize("spec", [spec for spec in REGISTRY.values() if spec.served is Served.UNIMPLEMENTED])
def test_unsupported_rpcs_have_a_reason(spec: registry.RpcSpec) -> None:
    """The reason comes from one list."""
    assert isinstance(spec.feature, Feature)
    assert spec.reason


def test_a_reason_is_some_rpcs() -> None:
    """None is left over from what is served by now."""
    assert {spec.feature for spec in REGISTRY.values() if spec.served is Served.UNIMPLEMENTED} == set(Feature)
