"""The errors of queries, page tokens and search attributes. Messages are worded as Temporal's."""

from __future__ import annotations

MALFORMED = "malformed SQL query"
NOT_SUPPORTED = "operation is not supported"
INVALID_EXPRESSION = "invalid expression"
UNKNOWN_ATTRIBUTE = "invalid search attribute"


class InvalidQuery(ValueError):
    """The list filter is invalid or not supported; `message` is the text for INVALID_ARGUMENT."""

    def __init__(self, detail: str) -> None:
        self.message = f"invalid query: {detail}"
        super().__init__(self.message)


class InvalidPageToken(InvalidQuery):
    """The page token was not issued by this server."""

    def __init__(self) -> None:
        super().__init__("the page token is not valid")
        self.message = "invalid page token"


class InvalidSearchAttributes(ValueError):
    """The search attributes of a request are invalid; `message` is the text for INVALID_ARGUMENT."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)
