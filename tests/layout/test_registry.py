"""Every RPC of every `service` block has exactly one handler, and nothing else is handled."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.operatorservice.v1 import service_pb2 as operator_pb
from temporalio.api.testservice.v1 import service_pb2 as test_pb
from temporalio.api.workflowservice.v1 import service_pb2 as workflow_pb

import whistlestop.common.proto
from whistlestop.common.renamed_rpcs import OLD_NAMES
from whistlestop.common.rpcs import test_service
from whistlestop.common.rpcs.handlers import Handlers
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.common.rpcs.operator_service import OperatorService
from whistlestop.common.rpcs.worker_service import WorkerService
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend import api, registry
from whistlestop.frontend.api import HANDLERS as FRONTEND_HANDLERS
from whistlestop.frontend.api import VALIDATORS
from whistlestop.frontend.own_rpcs import OWN_REGISTRY
from whistlestop.frontend.registry import REGISTRY, Feature, Served
from whistlestop.history import api as history_api
from whistlestop.history.api import HANDLERS as HISTORY_HANDLERS
from whistlestop.matching.service import HANDLERS as MATCHING_HANDLERS
from whistlestop.matching.service import Matching
from whistlestop.server.time_skipping import HANDLERS as TEST_HANDLERS

if TYPE_CHECKING:
    from types import ModuleType

    from whistlestop.common.rpcs.rpc import Service

PUBLIC: list[type[Service]] = [WorkflowService, OperatorService, WorkerService]
SERVICES: list[type[Service]] = [*PUBLIC, test_service.TestService, HistoryService, MatchingService]
SPECS = REGISTRY | OWN_REGISTRY
INTERNAL = {Served.HISTORY: HistoryService, Served.MATCHING: MatchingService}


def _blocks() -> dict[str, Any]:
    """Return the descriptors of all `service` blocks, of Temporal's API and of all our `.proto` files."""
    modules = [import_module(name) for name in _modules(whistlestop.common.proto) if name.endswith("_pb2")]
    files = [workflow_pb, operator_pb, test_pb, *modules]
    return {each.full_name: each for file in files for each in file.DESCRIPTOR.services_by_name.values()}


def _modules(package: ModuleType) -> list[str]:
    return [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]


def _import_all() -> None:
    for name in (*_modules(api), *_modules(history_api), "whistlestop.history.schedule.rpcs"):
        import_module(name)


def test_each_service_block_has_its_class() -> None:
    assert {service.full_name for service in SERVICES} == set(_blocks()), "run `make proto`, and name the class here"


@pytest.mark.parametrize("service", SERVICES)
def test_classes_are_what_the_blocks_say(service: type[Service]) -> None:
    """With their types. A deprecated RPC of our own is the name of another in release 0.1.0."""
    block = _blocks()[service.full_name]
    declared, old = {}, set()
    for method in block.methods:
        if method.GetOptions().deprecated and service.full_name.startswith("whistlestop."):
            old.add(method.name)
        else:
            declared[method.name] = (method.input_type.full_name, method.output_type.full_name)
    assert declared == {
        name: (rpc.request_type.DESCRIPTOR.full_name, rpc.response_type.DESCRIPTOR.full_name)
        for name, rpc in service.rpcs.items()
    }, "run `make proto`"
    names = {rpc.method: rpc.old_name for rpc in service.rpcs.values() if rpc.old_name}
    assert set(names.values()) == old
    assert names.items() <= OLD_NAMES.items()
    assert {f"{service.full_name}/{name}" for name in declared} == {rpc.full_name for rpc in service.rpcs.values()}


@pytest.mark.parametrize(
    ("service", "handlers"),
    [
        (HistoryService, HISTORY_HANDLERS),
        (MatchingService, MATCHING_HANDLERS),
        (test_service.TestService, TEST_HANDLERS),
    ],
)
def test_each_rpc_of_a_service_has_its_handler(service: type[Service], handlers: Handlers[Any]) -> None:
    """And there is no handler of anything else."""
    _import_all()
    assert set(service.rpcs) == set(handlers.functions), "decorate its handler with @handles"


def test_each_public_rpc_has_its_spec() -> None:
    """One line, which says who serves it and what the caller needs."""
    lines = [*registry._WORKFLOW_RPCS, *registry._OPERATOR_RPCS]
    assert len(lines) == len({rpc.full_name for rpc, _, _ in lines})
    expected = {rpc.full_name for service in PUBLIC for rpc in service.rpcs.values()}
    old = {f"{rpc.service}/{rpc.old_name}" for rpc in WorkerService.rpcs.values() if rpc.old_name}
    assert expected | old == set(SPECS), "add a line to frontend/registry.py, or to frontend/own_rpcs.py"


@pytest.mark.parametrize("served", [Served.HISTORY, Served.MATCHING])
def test_what_another_service_serves_is_an_rpc_of_it(served: Served) -> None:
    """Of the same name and types: the frontend passes the messages on as they are."""
    for spec in SPECS.values():
        if spec.served is served:
            rpc = INTERNAL[served].rpcs.get(spec.method)
            assert rpc is not None, f"add {spec.method} to the block of {INTERNAL[served].full_name}"
            assert (rpc.request_type, rpc.response_type) == (spec.request_type, spec.response_type)


def test_the_frontend_handles_what_it_serves_itself() -> None:
    """Besides, it may wrap the calls of others, but not of what nobody serves."""
    _import_all()
    own = {spec.method for spec in SPECS.values() if spec.served is Served.FRONTEND}
    wrapped = {spec.method for spec in SPECS.values() if spec.served in INTERNAL}
    handled = set(FRONTEND_HANDLERS.functions)
    assert own - handled == set(), "decorate its handler with @handles"
    assert handled <= own | wrapped
    assert set(VALIDATORS.functions) <= {spec.method for spec in SPECS.values()}


def test_the_frontend_imports_the_modules_of_an_rpc() -> None:
    """Those of its handler and of its validator. What the table does not name would never be done."""
    _import_all()
    expected: dict[str, set[str]] = {}
    for table in (FRONTEND_HANDLERS, VALIDATORS):
        for method, function in table.functions.items():
            expected.setdefault(method, set()).add(function.__module__.removeprefix(f"{api.__name__}."))
    found = {method: set(modules) for method, modules in api.MODULES_OF.items()}
    assert found == expected, "_METHODS_OF of frontend/api/__init__.py must name each method under each of its modules"


def test_history_imports_the_module_of_an_rpc() -> None:
    _import_all()
    found = {
        method: handler.__module__.removeprefix("whistlestop.history.")
        for method, handler in HISTORY_HANDLERS.functions.items()
    }
    assert found == HISTORY_HANDLERS.module_of, (
        "_METHODS_OF of history/api/__init__.py must name each method under its module"
    )


def test_a_second_handler_is_refused() -> None:
    handlers: Handlers[Matching] = Handlers()
    decorate: Any = handlers.register(MatchingService.HasPoller)
    decorate(test_each_public_rpc_has_its_spec)
    with pytest.raises(ValueError, match="HasPoller> has two"):
        decorate(test_a_second_handler_is_refused)


def test_an_unknown_method_has_no_handler() -> None:
    assert HISTORY_HANDLERS.find("NoSuchMethod") is None


@pytest.mark.parametrize("spec", [spec for spec in REGISTRY.values() if spec.served is Served.UNIMPLEMENTED])
def test_unsupported_rpcs_have_a_reason(spec: registry.RpcSpec) -> None:
    """The reason comes from one list."""
    assert isinstance(spec.feature, Feature)
    assert spec.reason


def test_a_reason_is_some_rpcs() -> None:
    """None is left over from what is served by now."""
    assert {spec.feature for spec in REGISTRY.values() if spec.served is Served.UNIMPLEMENTED} == set(Feature)
