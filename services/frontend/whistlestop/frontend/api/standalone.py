"""Checks and lists that requests about standalone activities and standalone Nexus operations share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from whistlestop.common.errors import invalid_argument
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.frontend.api import checks
from whistlestop.frontend.api.listing import entries, fill_count, page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from whistlestop.common.context import CallContext
    from whistlestop.frontend.api.listing import Counted, Division
    from whistlestop.frontend.api.rules import Rules
    from whistlestop.frontend.ports import FrontendPorts
    from whistlestop.storage.namespaces import Namespace
    from whistlestop.storage.records import VisibilityRow
    from whistlestop.storage.visibility import AttributeType

    T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Names:
    """How Temporal calls the ids of one kind of execution in its errors."""

    id_field: str
    """The field of requests with the id that the user gave."""
    id: str
    request_id: str
    bad_run_id: str
    """The error for a run id that is not one."""
    no_run_id: str
    """The error for a long-poll token without a run id."""

    def check_id(self, request: Any, rules: Rules) -> None:
        """Check that the request has an id, of a length within the limit. Raise INVALID_ARGUMENT."""
        user_id = getattr(request, self.id_field)
        if not user_id:
            raise invalid_argument(f"{self.id} is required")
        check_length(self.id, user_id, rules.config.max_id_length)

    def check_run_id(self, request: Any) -> None:
        """Check that the run id is empty or a UUID. Raise INVALID_ARGUMENT."""
        if not checks.is_run_id(request.run_id):
            raise invalid_argument(self.bad_run_id)

    def check_request_id(self, request: Any, rules: Rules) -> None:
        """Draw a request id if the caller gave none, and check its length. Raise INVALID_ARGUMENT."""
        if not request.request_id:
            request.request_id = rules.ids.uuid()
        check_length(self.request_id, request.request_id, rules.config.max_id_length)

    def check_reference(self, request: Any, namespace: Namespace | None, rules: Rules) -> None:
        """Check that the execution is named correctly. Raise INVALID_ARGUMENT.

        With the long-poll token of an earlier answer the request has to name the run.
        """
        self.check_id(request, rules)
        if getattr(request, "long_poll_token", b"") and not request.run_id:
            raise invalid_argument(self.no_run_id)
        self.check_run_id(request)


def check_length(what: str, text: str, most: int) -> None:
    """Check that the text has at most that many bytes in UTF-8. Raise INVALID_ARGUMENT."""
    if checks.length(text) > most:
        raise invalid_argument(f"{what} exceeds length limit. Length={checks.length(text)} Limit={most}")


async def list_page(
    frontend: FrontendPorts,
    request: Any,
    context: CallContext,
    division: Division,
    entry: Callable[[VisibilityRow, Mapping[str, AttributeType]], T],
) -> tuple[list[T], bytes]:
    """Return a page of the division, newest first, and the token of the next one (empty after the last page).

    Raise INVALID_ARGUMENT for a bad filter or page token.
    """
    query, custom = await division.parsed(frontend, context, request.query)
    rows, token = await page(
        frontend, context, query, request.page_size, request.next_page_token, request.query, division.base
    )
    return await entries(frontend, rows, lambda row: entry(row, custom)), token


async def count(
    frontend: FrontendPorts, request: Any, context: CallContext, division: Division, response: Counted
) -> Counted:
    """Fill the response with the count of the division, also by group if the filter groups; return the response.

    Raise INVALID_ARGUMENT for a bad filter.
    """
    query, _ = await division.parsed(frontend, context, request.query)
    return await fill_count(frontend, context, query, response)
