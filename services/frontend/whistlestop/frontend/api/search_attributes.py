"""AddSearchAttributes, RemoveSearchAttributes, ListSearchAttributes, GetSearchAttributes.

Custom attributes belong to a namespace. Each occupies one of a fixed number of fields per type (`Keyword01` …), as in
Temporal's SQL stores; the field is only shown, since our rows store attributes under their own names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1.common_pb2 import IndexedValueType
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import invalid_argument
from whistlestop.common.rpcs.operator_service import OperatorService
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api.namespaces import edit
from whistlestop.frontend.api.rules import handles
from whistlestop.storage.visibility import SYSTEM_AND_PREDEFINED, AttributeType, is_reserved

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.namespace_pb2 import NamespaceData
    from whistlestop.frontend.ports import FrontendPorts

_LIMITS = {kind: 10 if kind is AttributeType.Keyword else 3 for kind in AttributeType}
"""Custom attributes of each type that a namespace may have: the number of fields of Temporal's SQL stores."""

_NOT_SET = "SearchAttributes are not set on request."
_NO_NAMESPACE = "Namespace is not set on request."


@handles(OperatorService.AddSearchAttributes)
async def add_search_attributes(
    frontend: FrontendPorts, request: operator_pb.AddSearchAttributesRequest, context: CallContext
) -> operator_pb.AddSearchAttributesResponse:
    """Add custom attributes. Existing ones, of whatever type, are left unchanged. Raise INVALID_ARGUMENT."""
    wanted = dict(request.search_attributes.items())
    if not wanted:
        raise invalid_argument(_NOT_SET)
    for name, kind in wanted.items():
        if is_reserved(name):
            raise invalid_argument(f"Search attribute {name} is reserved by system.")
        if kind not in IndexedValueType.values():
            raise invalid_argument(f"Unknown search attribute type: {kind}.")
    if not request.namespace:
        raise invalid_argument(_NO_NAMESPACE)

    def change(data: NamespaceData) -> None:
        for name, kind in wanted.items():
            if name and name not in data.custom_search_attributes:
                data.config.custom_search_attribute_aliases[_free_field(data, kind)] = name
                data.custom_search_attributes[name] = kind

    present = await _custom(frontend, request.namespace)
    if any(name not in present for name in wanted):
        await edit(frontend, request.namespace, change)
    return operator_pb.AddSearchAttributesResponse()


@handles(OperatorService.RemoveSearchAttributes)
async def remove_search_attributes(
    frontend: FrontendPorts, request: operator_pb.RemoveSearchAttributesRequest, context: CallContext
) -> operator_pb.RemoveSearchAttributesResponse:
    """Remove custom attributes. Unknown names are ignored. Raise INVALID_ARGUMENT."""
    if not request.search_attributes:
        raise invalid_argument(_NOT_SET)
    if not request.namespace:
        raise invalid_argument(_NO_NAMESPACE)
    names = set(request.search_attributes)
    for name in request.search_attributes:
        if name in SYSTEM_AND_PREDEFINED:
            raise invalid_argument(f"Unable to remove non-custom search attributes: {name}.")

    def change(data: NamespaceData) -> None:
        aliases = data.config.custom_search_attribute_aliases
        for field in [field for field, alias in aliases.items() if alias in names]:
            del aliases[field]
        for name in names:
            data.custom_search_attributes.pop(name, None)

    await edit(frontend, request.namespace, change)
    return operator_pb.RemoveSearchAttributesResponse()


@handles(OperatorService.ListSearchAttributes)
async def list_search_attributes(
    frontend: FrontendPorts, request: operator_pb.ListSearchAttributesRequest, context: CallContext
) -> operator_pb.ListSearchAttributesResponse:
    """Return custom and system attributes with their types. Raise INVALID_ARGUMENT without a namespace."""
    if not request.namespace:
        raise invalid_argument(_NO_NAMESPACE)
    response = operator_pb.ListSearchAttributesResponse()
    _fill(response.custom_attributes, await _custom(frontend, request.namespace))
    _fill(response.system_attributes, SYSTEM_AND_PREDEFINED)
    return response


@handles(WorkflowService.GetSearchAttributes)
async def get_search_attributes(
    frontend: FrontendPorts, request: service_pb.GetSearchAttributesRequest, context: CallContext
) -> service_pb.GetSearchAttributesResponse:
    """Return the cluster's attributes: those of the system, and the fields for custom ones. Deprecated."""
    response = service_pb.GetSearchAttributesResponse()
    _fill(response.keys, SYSTEM_AND_PREDEFINED)
    for kind in _LIMITS:
        _fill(response.keys, dict.fromkeys(_fields(kind), kind))
    return response


def _fields(kind: AttributeType) -> Iterator[str]:
    for number in range(1, _LIMITS[kind] + 1):
        yield f"{kind.name}{number:02}"


def _free_field(data: NamespaceData, kind: int) -> str:
    most, name = 0, "Unspecified"
    if kind != IndexedValueType.INDEXED_VALUE_TYPE_UNSPECIFIED:
        most, name = _LIMITS[AttributeType(kind)], AttributeType(kind).name
        for field in _fields(AttributeType(kind)):
            if field not in data.config.custom_search_attribute_aliases:
                return field
    raise invalid_argument(
        f"Unable to create search attributes: cannot have more than {most} search attribute of type {name}."
    )


async def _custom(frontend: FrontendPorts, namespace: str) -> Mapping[str, int]:
    """Return the custom attributes, read from the store so that additions by other processes are visible."""
    record = await frontend.store.get_namespace(name=namespace)
    if record is None:
        return {}
    found = await frontend.namespaces.refresh(record.namespace_id)
    return {} if found is None else found.custom_search_attributes


def _fill(target: Any, attributes: Mapping[str, int]) -> None:
    # `target` is a map of enums, whose stub demands the generated type, though any number works.
    for name, kind in attributes.items():
        target[name] = int(kind)
