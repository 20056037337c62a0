"""Code shared by all lists and counts over visibility: pages, groups, and namespace divisions.

Schedules, standalone activities and standalone Nexus operations are stored in visibility as runs, each kind in a
namespace division of its own. A filter over a division uses the names that its users know.
"""

from __future__ import annotations

import contextlib
from dataclasses import field, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import invalid_argument
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.messages.page_tokens import check_mark, list_mark, marked
from whistlestop.net.tasks.offload import off_loop
from whistlestop.storage.visibility import AttributeType, InvalidQuery, group_payloads, parse, row_payloads
from whistlestop.storage.visibility.errors import UNKNOWN_ATTRIBUTE
from whistlestop.storage.visibility.query import LARGE, And, Between, Compare, Expression, In, Not, Or, StartsWith

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from temporalio.api.common.v1 import message_pb2 as common_pb

    from whistlestop.common.context import CallContext
    from whistlestop.frontend.ports import FrontendPorts
    from whistlestop.storage.records import VisibilityRow
    from whistlestop.storage.visibility import Query

    Custom = Mapping[str, AttributeType]

DIVISION = "TemporalNamespaceDivision"
_MAX_GROUPS = 1000


class CountResponse(Protocol):
    """The response of a Count RPC without its groups, whose message type differs from RPC to RPC."""

    count: int


Counted = TypeVar("Counted", bound=CountResponse)
_Entry = TypeVar("_Entry")


def remaining_s(frontend: FrontendPorts, context: CallContext) -> float:
    """Return how long the store may read for this caller, in seconds: until its deadline, up to a limit."""
    most = frontend.config.visibility_read_s
    if context.deadline_ns is None:
        return most
    return max(min((context.deadline_ns - frontend.clock.steady_ns()) / SECOND_NS, most), 0.001)


async def page(
    frontend: FrontendPorts, context: CallContext, query: Query, size: int, after: bytes, *of: str
) -> tuple[list[VisibilityRow], bytes]:
    """Return a page of rows, and the token of the next page (empty at the end). Raise INVALID_ARGUMENT.

    A size that is not positive or too large means the largest. `of` is the filter text and what it filters: a token is
    only valid for the same ones.
    """
    most = frontend.config.of(context.namespace).visibility_max_page_size
    limit = size if 0 < size <= most else most
    mark = list_mark(context.namespace_id, *of)
    check_mark(after, mark)
    try:
        rows, token = await frontend.store.list_visibility(
            context.namespace_id, query, limit, after, remaining_s(frontend, context)
        )
    except InvalidQuery as error:
        raise invalid_argument(error.message) from None
    return rows, marked(token, mark)


async def fill_count(frontend: FrontendPorts, context: CallContext, query: Query, response: Counted) -> Counted:
    """Fill in the count, and a count per group if the filter groups. Raise StorageError."""
    if not query.group_by:
        response.count = await frontend.store.count_visibility(
            context.namespace_id, query, remaining_s(frontend, context)
        )
        return response
    groups = await frontend.store.count_visibility_groups(
        context.namespace_id, query, _MAX_GROUPS, remaining_s(frontend, context)
    )
    for values, count in groups:
        response.count += count
        response.groups.add(count=count, group_values=group_payloads(query, values))  # type: ignore[attr-defined]
    return response


async def parsed_filter(
    frontend: FrontendPorts, context: CallContext, text: str, aliases: Custom | None = None, *, yields: bool = False
) -> tuple[Query, Custom]:
    """Return the parsed filter and the namespace's custom attributes. Raises INVALID_ARGUMENT.

    If the filter names an unknown attribute, the namespace is read again once, since the attribute may be new. With
    `yields`, a custom attribute takes precedence over an alias of the same name.
    """
    for lookup in (frontend.namespaces.by_id, frontend.namespaces.refresh):
        namespace = await lookup(context.namespace_id)
        custom: Custom = {} if namespace is None else namespace.custom_search_attributes
        known = custom
        if aliases:
            known = {**aliases, **custom} if yields else {**custom, **aliases}
        try:
            return await off_loop(parse, text, known) if len(text) > LARGE else parse(text, known), custom
        except InvalidQuery as error:
            problem = error
            if UNKNOWN_ATTRIBUTE not in error.message and len(text) > LARGE:
                break  # no attribute is missing, so reading the namespace again would not help
    raise invalid_argument(problem.message)


async def entries(
    frontend: FrontendPorts, rows: Sequence[VisibilityRow], make: Callable[[VisibilityRow], _Entry]
) -> list[_Entry]:
    """Convert a page of rows. A row that fails is shown without memo and attributes and does not affect the others.

    Raise StorageError.
    """
    made: list[_Entry] = []
    for row in rows:
        try:
            made.append(make(row))
        except Exception as error:  # noqa: BLE001 - what a client stored, or a damaged row, must not fail the page
            await frontend.aside.seen("executions_visibility", (row.key.namespace_id, row.key.run_id), error)
            with contextlib.suppress(Exception):
                made.append(make(replace(row, memo=b"", search_attributes="{}")))
    return made


def show_attributes(attributes: common_pb.SearchAttributes, row: VisibilityRow, custom: Custom) -> None:
    """Add the row's search attributes, as clients see them."""
    attributes.SetInParent()
    for name, payload in row_payloads(row.search_attributes, custom).items():
        attributes.indexed_fields[name].CopyFrom(payload)


@dataclass(frozen=True, slots=True)
class Division:
    """The runs of one kind that are not workflows. `base` is the filter that selects all of them."""

    base: str
    id_prefix: str
    """Prefix of their workflow ids; the rest is the id that users know."""
    id_alias: str
    """The name of that id in filters."""
    columns: Mapping[str, str]
    """Names in filters, and the columns that they stand for; `id_alias` is among them."""
    types: Mapping[str, AttributeType] = field(default_factory=dict)
    """Types of those columns that are not keywords."""
    yields_to_custom: bool = False
    """A custom search attribute of the same name takes precedence."""

    def user_id(self, row: VisibilityRow) -> str:
        """Return the id that users know: the workflow id without this division's prefix."""
        return row.key.workflow_id.removeprefix(self.id_prefix)

    async def parsed(
        self,
        frontend: FrontendPorts,
        context: CallContext,
        text: str,
        check: Callable[[Expression], None] | None = None,
    ) -> tuple[Query, Custom]:
        """Return the filter within this division, and the namespace's custom attributes. Raises INVALID_ARGUMENT."""
        aliases = dict.fromkeys(self.columns, AttributeType.Keyword) | dict(self.types)
        wanted, custom = await parsed_filter(frontend, context, text, aliases, yields=self.yields_to_custom)
        columns = {name: at for name, at in self.columns.items() if not (self.yields_to_custom and name in custom)}
        base = parse(self.base, custom).where
        assert base is not None
        where = _without_implied(wanted.where)
        if where is None:
            return replace(wanted, where=base), custom
        if check is not None:
            check(where)
        return replace(wanted, where=And((base, self._by_column(where, columns)))), custom

    def _by_column(self, expression: Expression, columns: Mapping[str, str]) -> Expression:
        match expression:
            case And(items=items):
                return And(tuple(self._by_column(item, columns) for item in items))
            case Or(items=items):
                return Or(tuple(self._by_column(item, columns) for item in items))
            case Not(item=item):
                return Not(self._by_column(item, columns))
        named = expression.attribute.alias.removeprefix("Temporal")
        if named not in columns:
            return expression
        moved = replace(expression, attribute=replace(expression.attribute, name=columns[named]))
        if named != self.id_alias:
            return moved
        prefix = self.id_prefix
        match moved:
            case Compare(value=value):
                return replace(moved, value=f"{prefix}{value}")
            case In(values=values):
                return replace(moved, values=tuple(f"{prefix}{value}" for value in values))
            case Between(low=low, high=high):
                return replace(moved, low=f"{prefix}{low}", high=f"{prefix}{high}")
            case StartsWith(prefix=beginning):
                return replace(moved, prefix=prefix + beginning)
        return moved


def _without_implied(where: Expression | None) -> Expression | None:
    """Remove the condition that `parse` adds to a filter that names no division."""
    if isinstance(where, And) and _is_implied(where.items[0]):
        return where.items[1]
    return None if where is None or _is_implied(where) else where


def _is_implied(expression: Expression) -> bool:
    attribute = getattr(expression, "attribute", None)
    return attribute is not None and attribute.name == attribute.alias == DIVISION
