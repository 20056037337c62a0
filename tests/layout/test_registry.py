"""The registry says something about every RPC there is."""

from __future__ import annotations

import pytest
from temporalio.api.operatorservice.v1 import service_pb2 as operator_pb
from temporalio.api.workflowservice.v1 import service_pb2 as workflow_pb

from whistlestop.frontend import registry
from whistlestop.frontend.api import HANDLERS, VALIDATORS
from whistlestop.frontend.registry import REGISTRY, Feature, Served

_SERVICES = [
    workflow_pb.DESCRIPTOR.services_by_name["WorkflowService"],
    operator_pb.DESCRIPTOR.services_by_name["OperatorService"],
]


def test_every_rpc_of_the_descriptors_is_in_the_registry() -> None:
    """Nothing is missing and nothing is made up."""
    expected = {f"{service.full_name}/{method.name}" for service in _SERVICES for method in service.methods}
    assert expected == set(REGISTRY)


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


def test_the_frontend_has_a_handler_for_what_it_serves_itself() -> None:
    """And for nothing else."""
    expected = {spec.method for spec in REGISTRY.values() if spec.served is Served.FRONTEND}
    assert expected == set(HANDLERS)


def test_validators_belong_to_known_rpcs() -> None:
    """A misspelt name would validate nothing."""
    assert set(VALIDATORS) <= {spec.method for spec in REGISTRY.values()}


@pytest.mark.parametrize("spec", [spec for spec in REGISTRY.values() if spec.served is Served.UNIMPLEMENTED])
def test_what_is_not_supported_gives_a_reason(spec: registry.RpcSpec) -> None:
    """The reason comes from one list."""
    assert isinstance(spec.feature, Feature)
    assert spec.reason


def test_a_reason_is_some_rpcs() -> None:
    """None is left over from what is served by now."""
    assert {spec.feature for spec in REGISTRY.values() if spec.served is Served.UNIMPLEMENTED} == set(Feature)
